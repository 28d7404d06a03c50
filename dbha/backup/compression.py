"""How the stream of a backup is compressed and decompressed: the tools and their argument vectors.

Each of them puts a checksum at the end of what it writes, and fails on input that is cut or has a wrong one.
"""

from dbha.config.model import BackupPolicy, Compression

_SUFFIXES = {Compression.ZSTD: ".zst", Compression.LZ4: ".lz4", Compression.NONE: ""}


def compress_argv(policy: BackupPolicy) -> tuple[str, ...]:
    """Return the command that compresses stdin to stdout; nothing where nothing is compressed."""
    match policy.compression:
        case Compression.ZSTD:
            return (
                "zstd",
                f"-{policy.compression_level}",
                f"-T{policy.compression_threads}",
                "--check",
                "--quiet",
                "--stdout",
            )
        case Compression.LZ4:
            return ("lz4", f"-{policy.compression_level}", "-z", "-q", "-c")
        case Compression.NONE:
            return ()


def decompress_argv(compression: Compression) -> tuple[str, ...]:
    """Return the command that decompresses stdin to stdout; nothing where nothing was compressed."""
    match compression:
        case Compression.ZSTD:
            return ("zstd", "--decompress", "--quiet", "--stdout")
        case Compression.LZ4:
            return ("lz4", "-d", "-q", "-c")
        case Compression.NONE:
            return ()


def stream_file(compression: Compression, *, encrypted: bool) -> str:
    """Return what the file of a stream is called."""
    return f"stream.mbs{_SUFFIXES[compression]}{'.age' if encrypted else ''}"
