"""The program that a BccLoader runs: compile, load, hand the programs over, end.

    python3 -I bcc_child.py REQUEST

Run as a file by whichever Python has BCC, so it imports nothing of the project's. The request is JSON: "source", a C
file; "options" for the compiler; "answer", the number of an inherited socket. One message is sent on it: JSON with
"programs", their names in the order of the descriptors that come along; or with "failure", a word that BccLoader
knows, and "detail". Where BCC fails there is no message, and standard error says why.
"""

from __future__ import annotations

import json
import socket
import sys


class Refusal(Exception):
    """The word for what failed, and the detail."""


def main() -> None:
    """Answer the request."""
    request = json.loads(sys.argv[1])
    with socket.socket(fileno=request["answer"]) as answer:
        try:
            programs = load(request["source"], request["options"])
        except Refusal as refusal:
            failure, detail = refusal.args
            answer.send(json.dumps({"failure": failure, "detail": detail}).encode())
        else:
            socket.send_fds(answer, [json.dumps({"programs": list(programs)}).encode()], list(programs.values()))


def load(source: str, options: list[str]) -> dict[str, int]:
    """Names and descriptors of the C file's programs. Refusal, or whatever BCC raises."""
    try:
        import bcc  # noqa: PLC0415 -- its absence is an answer
    except (ImportError, OSError) as error:
        raise Refusal("absent", str(error)) from error
    if not hasattr(bcc, "BPF") or not hasattr(bcc, "lib"):
        raise Refusal("namesake", str(bcc.__file__))
    sys.stderr.write(f"BCC {bcc.__version__}\n")
    module = bcc.BPF(src_file=source, cflags=options)
    count = bcc.lib.bpf_num_functions(module.module)
    names = [bcc.lib.bpf_function_name(module.module, number) for number in range(count)]
    return {name.decode(): module.load_func(name, bcc.BPF.SCHED_CLS).fd for name in names}


if __name__ == "__main__":
    main()
