"""A process that forks a promoter for every line `POINT NUMBER` that it reads, and says how it
ended; argv: a model."""

import os
import sys


def main() -> None:
    from tasks.runtime.environment import prepare

    prepare()
    from tasks.registry import aliases, register, versions
    from tasks.registry.tracking import tracking_client
    from tasks.registry.versions import CHAMPION

    name = sys.argv[1]
    for line in sys.stdin:
        point, number = line.split()
        child = os.fork()
        if child == 0:
            os.environ["FAULT"] = f"promote:{point}"
            client = tracking_client()
            with register.registry_lock(name, "the test"):
                aliases.finish_change(client, name)
                champion = aliases.number_of(versions.read_alias(client, name, CHAMPION))
                aliases.change_champion(client, name, champion, int(number), "killed", [])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
