"""`callgate queues release`: checks after a halt which scheduled calls were dialled, and lets workers dial the others."""
