# SPDX-License-Identifier: Apache-2.0
"""XXH3-128 with seed 0 and the default secret, for inputs of whole 4-byte words, after the published
specification of the algorithm (github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""

import struct

MASK = (1 << 64) - 1
P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
       0x27D4EB2F165667C5)
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")


def u64(data, at):
    return int.from_bytes(data[at:at + 8], "little")


def secret(at):
    return u64(SECRET, at)


def avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & MASK
    return h ^ h >> 32


def avalanche64(h):
    h ^= h >> 33
    h = h * P64[1] & MASK
    h ^= h >> 29
    h = h * P64[2] & MASK
    return h ^ h >> 32


def fold(a, b):
    product = a * b
    return (product & MASK) ^ (product >> 64)


def mix16(data, at, s):
    return fold(u64(data, at) ^ secret(s), u64(data, at + 8) ^ secret(s + 8))


def mix32(low, high, data, a, b, s):
    low = (low + mix16(data, a, s) & MASK) ^ (u64(data, b) + u64(data, b + 8) & MASK)
    high = (high + mix16(data, b, s + 16) & MASK) ^ (u64(data, a) + u64(data, a + 8) & MASK)
    return low, high


def finish(low, high, length):
    mixed = low * P64[0] + high * P64[3] + length * P64[1] & MASK
    return avalanche(low + high & MASK), -avalanche(mixed) & MASK


def up_to_16(data):
    n = len(data)
    if n == 0:
        return avalanche64(secret(64) ^ secret(72)), avalanche64(secret(80) ^ secret(88))
    if n <= 8:
        first = int.from_bytes(data[:4], "little")
        last = int.from_bytes(data[-4:], "little")
        product = ((first + (last << 32)) ^ secret(16) ^ secret(24)) * (P64[0] + (n << 2))
        low, high = product & MASK, product >> 64
        high = high + (low << 1) & MASK
        low ^= high >> 3
        low = (low ^ low >> 35) * 0x9FB21C651E98DF25 & MASK
        return low ^ low >> 28, avalanche(high)
    first, last = u64(data, 0), u64(data, n - 8)
    product = (first ^ last ^ secret(32) ^ secret(40)) * P64[0]
    low, high = product + (n - 1 << 54) & MASK, product >> 64
    last ^= secret(48) ^ secret(56)
    high = high + last + (last & 0xFFFFFFFF) * (P32[1] - 1) & MASK
    low ^= int.from_bytes(high.to_bytes(8, "little"), "big")
    product = low * P64[1]
    return avalanche(product & MASK), avalanche((product >> 64) + high * P64[1] & MASK)


def up_to_128(data):
    n = len(data)
    low, high = n * P64[0] & MASK, 0
    for i in reversed(range((n - 1) // 32)):
        low, high = mix32(low, high, data, 16 * (i + 1), n - 16 * (i + 2), 32 * (i + 1))
    return finish(*mix32(low, high, data, 0, n - 16, 0), n)


def up_to_240(data):
    n = len(data)
    low, high = n * P64[0] & MASK, 0
    for i in range(n // 32):
        if i == 4:
            low, high = avalanche(low), avalanche(high)
        low, high = mix32(low, high, data, 32 * i, 32 * i + 16,
                          32 * i if i < 4 else 3 + 32 * (i - 4))
    if n // 32 == 4:
        low, high = avalanche(low), avalanche(high)
    return finish(*mix32(low, high, data, n - 16, n - 32, 136 - 17 - 16), n)


def accumulate(lanes, stripe, s):
    values = struct.unpack("<8Q", stripe)
    for i, (value, key) in enumerate(zip(values, struct.unpack_from("<8Q", SECRET, s))):
        key ^= value
        lanes[i ^ 1] = lanes[i ^ 1] + value & MASK
        lanes[i] = lanes[i] + (key & 0xFFFFFFFF) * (key >> 32) & MASK


def merge(lanes, s, start):
    for i in range(0, 8, 2):
        start += fold(lanes[i] ^ secret(s + 8 * i), lanes[i + 1] ^ secret(s + 8 * i + 8))
    return avalanche(start & MASK)


def longer(data):
    n = len(data)
    lanes = [P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]]
    stripes = (n - 1) // 64
    for i in range(stripes):
        accumulate(lanes, data[64 * i:64 * i + 64], 8 * (i % 16))
        if i % 16 == 15:  # a block is done
            for lane in range(8):
                value = lanes[lane]
                lanes[lane] = (value ^ value >> 47 ^ secret(128 + 8 * lane)) * P32[0] & MASK
    accumulate(lanes, data[-64:], 192 - 64 - 7)
    return (merge(lanes, 11, n * P64[0] & MASK),
            merge(lanes, 192 - 64 - 11, ~(n * P64[1]) & MASK))


def hexdigest(data):
    """32 digits, canonical (big-endian) form."""
    n = len(data)
    assert n % 4 == 0
    method = (up_to_16 if n <= 16 else up_to_128 if n <= 128 else up_to_240 if n <= 240 else longer)
    low, high = method(data)
    return f"{high:016x}{low:016x}"
