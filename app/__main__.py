"""`callgate`, and `python -m app`."""

import sys


def main() -> None:
    """The command line, or `callgate healthcheck` without it (see `app.healthcheck`)."""
    command, *arguments = sys.argv[1:] or [""]
    if command == "healthcheck" and len(arguments) < 2 and not any(word.startswith("-") for word in arguments):
        from app.healthcheck import trouble

        sys.exit(trouble(*arguments))
    from app.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
