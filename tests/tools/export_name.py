"""Opens an export the old way, with EXPORT_NAME and without fixed newstyle, writes, and reads it back.

Arguments: SOCKET EXPORT. Prints the size of the export.
"""

import sys

import nbd


def main(socket, export):
    handle = nbd.NBD()
    handle.set_export_name(export)
    # Without the flag FIXED_NEWSTYLE a client has no options to negotiate with, so all it can say is EXPORT_NAME.
    handle.set_handshake_flags(0)
    handle.connect_unix(socket)
    assert handle.get_protocol() == "newstyle", handle.get_protocol()
    payload = bytes(range(256)) * 32
    handle.pwrite(payload, 12288)
    handle.flush()
    assert handle.pread(len(payload), 12288) == payload
    print(handle.get_size())
    handle.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
