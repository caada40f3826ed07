"""Runs nginx in place of Twilio: it answers every POST …/Calls.json with a new sid, at once or after SLOW_MS milliseconds.

nginx takes little processor time away from the measured services. An account whose SID begins with ACf gets the late
answers. The delay needs Debian's package libnginx-mod-http-echo.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import wait_until_it_answers
from tests.proofs.balancer import free_port

SLOW_MS = 200
# Debian installs nginx in a folder that is only in root's PATH.
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
# A creation's answer as Twilio gives it: all 26 members, mostly null.
ANSWER_TEMPLATE = (
    '{"sid":"CA$request_id","account_sid":"$account","answered_by":null,"api_version":"2010-04-01",'
    '"caller_name":null,"date_created":null,"date_updated":null,"direction":"outbound-api","duration":null,"end_time":null,'
    '"forwarded_from":null,"from":"Jack","from_formatted":"Jack","group_sid":null,"parent_call_sid":null,'
    '"phone_number_sid":null,"price":null,"price_unit":"USD","queue_time":"0","start_time":null,"status":"queued",'
    '"subresource_uris":{"events":"$calls/CA$request_id/Events.json","notifications":"$calls/CA$request_id/Notifications.json",'
    '"recordings":"$calls/CA$request_id/Recordings.json","payments":"$calls/CA$request_id/Payments.json",'
    '"siprec":"$calls/CA$request_id/Siprec.json","streams":"$calls/CA$request_id/Streams.json",'
    '"transcriptions":"$calls/CA$request_id/Transcriptions.json",'
    '"user_defined_messages":"$calls/CA$request_id/UserDefinedMessages.json",'
    '"user_defined_message_subscriptions":"$calls/CA$request_id/UserDefinedMessageSubscriptions.json"},'
    '"to":"sip:kate@example.com;transport=tls;secure=true","to_formatted":"sip:kate@example.com;transport=tls;secure=true",'
    '"trunk_sid":"","uri":"$calls/CA$request_id.json"}'
)
CONFIGURATION_TEMPLATE = f"""
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
load_module {ECHO_MODULE};
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/json;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 10000000;
    server {{
        listen 127.0.0.1:PORT;
        location ~ ^(?<calls>/2010-04-01/Accounts/(?<account>ACf[0-9a-f]+)/Calls).json$ {{
            echo_status 201;
            echo_sleep {SLOW_MS / 1000};
            echo '{ANSWER_TEMPLATE}';
        }}
        location ~ ^(?<calls>/2010-04-01/Accounts/(?<account>AC[0-9a-f]+)/Calls).json$ {{ return 201 '{ANSWER_TEMPLATE}'; }}
    }}
}}
"""


def creation_answer(account_sid: str, sid: str) -> dict[str, Any]:
    """Returns Twilio's JSON resource of a call that was just created, with this account SID and call SID."""
    path = f"/2010-04-01/Accounts/{account_sid}/Calls"
    answer = ANSWER_TEMPLATE.replace("$calls", path).replace("$account", account_sid).replace("CA$request_id", sid)
    return dict(json.loads(answer))


def missing_requirement() -> str | None:
    """Returns a message that says what has to be installed first; None if nothing is missing."""
    if not Path(NGINX).exists() or not ECHO_MODULE.exists():
        return "nginx with its echo module is not installed: apt-get install nginx-light libnginx-mod-http-echo"
    return None


@contextmanager
def running_nginx(folder: Path) -> Iterator[str]:
    """Runs nginx in place of Twilio until the `with` block ends, and yields its URL."""
    port = free_port()
    folder.mkdir()
    (folder / "nginx.conf").write_text(CONFIGURATION_TEMPLATE.replace("PORT", str(port)))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"])
    try:
        wait_until_it_answers(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
