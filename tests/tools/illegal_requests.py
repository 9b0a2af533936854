"""Sends requests that the protocol does not allow; every one must be refused, and the connection must stay usable.

Arguments: SOCKET EXPORT. Prints one line a request: what was sent and the error number's name.
"""

import errno
import sys

import nbd


def refused(what, call):
    try:
        call()
    except nbd.Error as error:
        print(f"{what}: {errno.errorcode.get(error.errnum, error.errnum)}")
    else:
        sys.exit(f"{what} was not refused")


def main(socket, export):
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.set_strict_mode(0)
    handle.connect_unix(socket)
    size = handle.get_size()
    refused("a write past the end", lambda: handle.pwrite(bytes(4096), size - 512))
    refused("a read past the end", lambda: handle.pread(4096, size))
    refused("a read whose end overflows", lambda: handle.pread(4096, (1 << 64) - 4096))
    refused("a trim past the end", lambda: handle.trim(1 << 20, size - 4096))
    refused("a write with an unknown flag", lambda: handle.pwrite(bytes(512), 0, 1 << 14))
    handle.pwrite(b"\x5a" * 512, 0)
    assert handle.pread(512, 0) == b"\x5a" * 512
    handle.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
