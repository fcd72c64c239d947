#!/usr/bin/env python3
"""Talks to the machine of a running test bed, from outside the guest.

  qmp.py SOCKET remove [DEVICE]   takes the controller out (default nvme0), and waits until the guest has let it go
  qmp.py SOCKET return [DEVICE]   puts it back, with its drives
  qmp.py SOCKET alarm BITS        sets the critical warning of the SMART log; 4 is "reliability degraded"
  qmp.py SOCKET execute NAME [JSON]   any command of QEMU's machine protocol, with its arguments

SOCKET is WORK/qmp.sock of `run --work WORK`. Prints the answer as JSON. Exit code 1 when the machine refuses, or the
guest does not let the device go within --timeout seconds (default 60).
"""

import argparse
import json
import os
import socket
import sys

# What `run` gives the controller; it comes back at the same place with the same serial.
CONTROLLER = {
    "driver": "nvme",
    "bus": "port0",
    "serial": "FOREBAY-TESTBED",
    "subsys": "subsys0",
    "max_ioqpairs": 64,
    "msix_qsize": 65,
}


class Refused(Exception):
    """The machine answered with an error."""


class Machine:
    """One connection. Events that come between answers are kept."""

    def __init__(self, path, timeout_s):
        self.events = []
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        # The path of a socket is at most 107 bytes long; relative to its directory it always fits.
        here = os.open(".", os.O_RDONLY)
        os.chdir(os.path.dirname(path) or ".")
        connection.connect(os.path.basename(path))
        os.fchdir(here)
        self.stream = connection.makefile("rw")
        self._receive()
        self.execute("qmp_capabilities")

    def _receive(self):
        line = self.stream.readline()
        if not line:
            raise Refused("the machine has ended")
        return json.loads(line)

    def execute(self, name, arguments=None):
        """Runs one command and returns what it answers."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        while True:
            message = self._receive()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise Refused(f"{name}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_for(self, event, device):
        """Returns when the event has come for this device."""
        while True:
            for message in self.events:
                if message["event"] == event and message["data"].get("device") == device:
                    return
            self.events = [self._receive()]


def run(machine, arguments):
    """Does what the command line says, and returns the answer to print."""
    action, words = arguments.action, arguments.words
    if action == "remove":
        device = words[0] if words else "nvme0"
        machine.execute("device_del", {"id": device})
        machine.wait_for("DEVICE_DELETED", device)
        return {"removed": device}
    if action == "return":
        device = words[0] if words else "nvme0"
        machine.execute("device_add", {"id": device, **CONTROLLER})
        return {"returned": device}
    if action == "alarm":
        place = {"path": "/machine/peripheral/nvme0", "property": "smart_critical_warning"}
        machine.execute("qom-set", {**place, "value": int(words[0])})
        return {"smart_critical_warning": int(words[0])}
    return machine.execute(words[0], json.loads(words[1]) if len(words) > 1 else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("action", choices=["remove", "return", "alarm", "execute"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S")
    arguments = parser.parse_args()
    if arguments.action in ("alarm", "execute") and not arguments.words:
        parser.error(f"{arguments.action} needs an argument")
    try:
        machine = Machine(arguments.socket, arguments.timeout)
        print(json.dumps(run(machine, arguments)))
    except TimeoutError:
        sys.exit(f"qmp.py: no answer within {arguments.timeout:g} s: does the guest run, with its pciehp driver?")
    except (OSError, Refused, ValueError) as error:
        sys.exit(f"qmp.py: {arguments.socket}: {error}")


if __name__ == "__main__":
    main()
