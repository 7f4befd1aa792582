#include "textflag.h"

// XXH3 of 512 bytes, as its specification has it: eight lanes of 64 bits take
// eight stripes of 64 bytes, each with 64 bytes of the secret, 8 further on each
// time, but for the last, which has those from 121 on.

DATA secret<>+0x00(SB)/8, $0xBE4BA423396CFEB8
DATA secret<>+0x08(SB)/8, $0x1CAD21F72C81017C
DATA secret<>+0x10(SB)/8, $0xDB979083E96DD4DE
DATA secret<>+0x18(SB)/8, $0x1F67B3B7A4A44072
DATA secret<>+0x20(SB)/8, $0x78E5C0CC4EE679CB
DATA secret<>+0x28(SB)/8, $0x2172FFCC7DD05A82
DATA secret<>+0x30(SB)/8, $0x8E2443F7744608B8
DATA secret<>+0x38(SB)/8, $0x4C263A81E69035E0
DATA secret<>+0x40(SB)/8, $0xCB00C391BB52283C
DATA secret<>+0x48(SB)/8, $0xA32E531B8B65D088
DATA secret<>+0x50(SB)/8, $0x4EF90DA297486471
DATA secret<>+0x58(SB)/8, $0xD8ACDEA946EF1938
DATA secret<>+0x60(SB)/8, $0x3F349CE33F76FAA8
DATA secret<>+0x68(SB)/8, $0x1D4F0BC7C7BBDCF9
DATA secret<>+0x70(SB)/8, $0x3159B4CD4BE0518A
DATA secret<>+0x78(SB)/8, $0x647378D9C97E9FC8
DATA secret<>+0x80(SB)/8, $0xC3EBD33483ACC5EA
DATA secret<>+0x88(SB)/8, $0xEB6313FAFFA081C5
DATA secret<>+0x90(SB)/8, $0x49DAF0B751DD0D17
DATA secret<>+0x98(SB)/8, $0x9E68D429265516D3
DATA secret<>+0xa0(SB)/8, $0xFCA1477D58BE162B
DATA secret<>+0xa8(SB)/8, $0xCE31D07AD1B8F88F
DATA secret<>+0xb0(SB)/8, $0x280416958F3ACB45
DATA secret<>+0xb8(SB)/8, $0x7E404BBBCAFBD7AF
GLOBL secret<>(SB), RODATA|NOPTR, $192

// What the lanes begin with.
DATA begin<>+0x00(SB)/8, $0x00000000C2B2AE3D
DATA begin<>+0x08(SB)/8, $0x9E3779B185EBCA87
DATA begin<>+0x10(SB)/8, $0xC2B2AE3D27D4EB4F
DATA begin<>+0x18(SB)/8, $0x165667B19E3779F9
DATA begin<>+0x20(SB)/8, $0x85EBCA77C2B2AE63
DATA begin<>+0x28(SB)/8, $0x0000000085EBCA77
DATA begin<>+0x30(SB)/8, $0x27D4EB2F165667C5
DATA begin<>+0x38(SB)/8, $0x000000009E3779B1
GLOBL begin<>(SB), RODATA|NOPTR, $64

// STRIPE adds to Z2 the products of the halves of what data and secret make, and
// data to Z3: each lane is to get its neighbour's, which can be done at the end.
#define STRIPE(at, secret) \
	VMOVDQU64 at(SI), Z0;     \
	VPADDQ    Z0, Z3, Z3;     \
	VPXORQ    secret, Z0, Z0; \
	VPSRLQ    $32, Z0, Z1;    \
	VPMULUDQ  Z0, Z1, Z0;     \
	VPADDQ    Z0, Z2, Z2

// FOLD adds to AX the halves of the product of two lanes, one XOR the other.
#define FOLD(a, b) \
	MOVQ  a, DX;       \
	MULXQ b, CX, DX;   \
	XORQ  CX, DX;      \
	ADDQ  DX, AX

// func hashAVX512(dst *uint64, text *byte, n int)
TEXT ·hashAVX512(SB), NOSPLIT, $64-24
	MOVQ dst+0(FP), DI
	MOVQ text+8(FP), SI
	MOVQ n+16(FP), R8
	MOVQ $0x6EF3630BD7950E00, R9 // 512 times the first prime
	MOVQ $0x165667919E3779F9, R10
	VMOVDQU64 secret<>+0(SB), Z8
	VMOVDQU64 secret<>+8(SB), Z9
	VMOVDQU64 secret<>+16(SB), Z10
	VMOVDQU64 secret<>+24(SB), Z11
	VMOVDQU64 secret<>+32(SB), Z12
	VMOVDQU64 secret<>+40(SB), Z13
	VMOVDQU64 secret<>+48(SB), Z14
	VMOVDQU64 secret<>+121(SB), Z15
	VMOVDQU64 secret<>+11(SB), Z16
	VMOVDQU64 begin<>(SB), Z17

block:
	VMOVDQA64 Z17, Z2
	VPXORQ    Z3, Z3, Z3
	STRIPE(0, Z8)
	STRIPE(64, Z9)
	STRIPE(128, Z10)
	STRIPE(192, Z11)
	STRIPE(256, Z12)
	STRIPE(320, Z13)
	STRIPE(384, Z14)
	STRIPE(448, Z15)
	VPSHUFD   $0x4E, Z3, Z3
	VPADDQ    Z3, Z2, Z2
	VPXORQ    Z16, Z2, Z2
	VMOVDQU64 Z2, lanes-64(SP)
	MOVQ      R9, AX
	FOLD(lanes-64(SP), lanes-56(SP))
	FOLD(lanes-48(SP), lanes-40(SP))
	FOLD(lanes-32(SP), lanes-24(SP))
	FOLD(lanes-16(SP), lanes-8(SP))
	MOVQ      AX, CX
	SHRQ      $37, CX
	XORQ      CX, AX
	IMULQ     R10, AX
	MOVQ      AX, CX
	SHRQ      $32, CX
	XORQ      CX, AX
	MOVQ      AX, (DI)
	ADDQ      $8, DI
	ADDQ      $512, SI
	DECQ      R8
	JNE       block
	VZEROUPPER
	RET
