"""Keeps many writes in flight to a few blocks, each with contents of its own, then flushes.

Arguments: SOCKET EXPORT SECONDS SEED. Prints how many writes were made. What the blocks hold afterwards is anyone's
guess; that both replicas hold the same is for the caller to check.
"""

import random
import sys
import time

import nbd

BLOCK = 4096
BLOCKS = 16
DEPTH = 64


def main(socket, export, seconds, seed):
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(socket)
    dice = random.Random(int(seed))
    end = time.monotonic() + float(seconds)
    writes = 0
    flying = []
    # A slow disk is given the time for some more than the first ones.
    while time.monotonic() < end or writes <= 4 * DEPTH:
        while len(flying) < DEPTH:
            writes += 1
            # Of different lengths and not always on a boundary of blocks, so that requests overlap in part too.
            first = dice.randrange(BLOCKS * 8)
            sectors = min(dice.choice((1, 8, 8, 8, 16)), BLOCKS * 8 - first)
            payload = bytearray(writes.to_bytes(8, "little") * (sectors * 64))
            flying.append(handle.aio_pwrite(nbd.Buffer.from_bytearray(payload), first * 512))
        handle.poll(-1)
        flying = [cookie for cookie in flying if not handle.aio_command_completed(cookie)]
    while flying:
        handle.poll(-1)
        flying = [cookie for cookie in flying if not handle.aio_command_completed(cookie)]
    handle.flush()
    handle.shutdown()
    print(writes)


if __name__ == "__main__":
    main(*sys.argv[1:])
