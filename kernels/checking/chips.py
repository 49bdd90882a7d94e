"""What the chips that kernels are compiled for hold and do in a clock: public figures, none of them measured here.

A "core" below is what shares one block of shared memory: NVIDIA's streaming multiprocessor, AMD's compute unit. Rates
are per core and clock; a multiply-add counts as one.

    shared memory, registers, warps and blocks of a core     CUDA C++ Programming Guide, "Technical Specifications per
                                                             Compute Capability"; AMD CDNA 3 instruction set, chapter 3
    fp32, alu, special (2^x, 1/x, ...) per clock             the same guide, "Throughput of Native Arithmetic
                                                             Instructions"
    products per clock                                       data sheets: dense fp16 FLOP/s / (2 · cores · boost clock)
                                                             of A100, L40S, H100 SXM, B200, MI300X
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One target of the compiler."""

    name: str
    backend: str  # what Triton calls the maker: cuda or hip
    lanes: int  # threads of a warp
    shared: int  # bytes of shared memory that one block may have
    shared_of_core: int  # bytes that the blocks of a core have together, with what the system reserves
    registers: int  # 32-bit registers of a core
    warps: int  # that a core holds at most
    blocks: int  # likewise
    products: int  # fp16 multiply-adds of the tensor cores per clock; 8-bit twice that
    fp32: int  # per clock
    alu: int  # integer adds, comparisons, selections, minima per clock
    special: int  # 2^x, 1/x, square roots per clock

    @property
    def arch(self) -> int | str:
        """80 for sm_80, as Triton wants it; gfx942 as it is."""
        return int(self.name.removeprefix("sm_")) if self.backend == "cuda" else self.name


KIB = 1024
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 32, 163 * KIB, 164 * KIB, 65536, 64, 32, 1024, 64, 64, 16),  # A100
        Chip("sm_86", "cuda", 32, 99 * KIB, 100 * KIB, 65536, 48, 16, 512, 128, 64, 16),  # A40
        Chip("sm_89", "cuda", 32, 99 * KIB, 100 * KIB, 65536, 48, 24, 512, 128, 64, 16),  # L4, L40S
        Chip("sm_90", "cuda", 32, 227 * KIB, 228 * KIB, 65536, 64, 32, 2048, 128, 64, 16),  # H100
        Chip("sm_100", "cuda", 32, 227 * KIB, 228 * KIB, 65536, 64, 32, 4096, 128, 64, 16),  # B200
        Chip("sm_120", "cuda", 32, 99 * KIB, 100 * KIB, 65536, 48, 24, 512, 128, 64, 16),  # RTX PRO 6000
        Chip("gfx90a", "hip", 64, 64 * KIB, 64 * KIB, 131072, 32, 16, 512, 64, 64, 16),  # MI250
        Chip("gfx942", "hip", 64, 64 * KIB, 64 * KIB, 131072, 32, 16, 1024, 64, 64, 16),  # MI300X
    )
}
PARTITIONS = 4  # of a core: schedulers with a quarter of its registers and its warps each
TENSOR_COLUMNS = 512  # of the tensor memory of a core of sm_100
RESERVED = 1024  # bytes of shared memory that CUDA keeps for itself in every block


def occupancy(chip: Chip, warps: int, registers: int, shared: int, columns: int = 0) -> tuple[float, str]:
    """The share of a core's warps that can be there at once, and what stands in the way of more.

        blocks = min over resources of ⌊what a core has / what a block takes⌋
        occupancy = blocks · warps of a block / warps that a core holds

    warps of a block; registers per thread; bytes of shared memory and columns of tensor memory per block.
    """
    of_warp = chip.lanes * -(-max(registers, 1) // 8) * 8  # a thread is handed registers in eights
    reserved = RESERVED if chip.backend == "cuda" else 0
    room = {
        "registers": chip.registers // PARTITIONS // of_warp * PARTITIONS // warps,
        "warps": chip.warps // warps,
        "blocks": chip.blocks,
    }
    if shared:
        room["shared memory"] = chip.shared_of_core // (-(-(shared + reserved) // 128) * 128)
    if columns:
        room["tensor memory"] = TENSOR_COLUMNS // columns
    limit = min(room, key=lambda name: room[name])
    return room[limit] * warps / chip.warps, limit
