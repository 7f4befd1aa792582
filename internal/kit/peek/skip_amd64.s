#include "textflag.h"

// Text is read in blocks of 64 bytes. Of each block masks of 64 bits are made:
// bit n says something of the block's n-th byte. The functions differ in how
// they make masks; what the masks mean is worked out by the macros below.
//
// Two things go from block to block: R8 is 1 if the block's first byte is
// escaped by the backslash before it. R9 has a bit for each of the block's first
// bytes that must be a hex digit of a \u escape begun before it, so it is 0, 1,
// 3, 7 or 15. Only when both are 0 does the block begin between characters.
//
//	SI   the block
//	R8   its first byte is escaped
//	R9   its first bytes that must be hex digits
//	R10  0xAAAAAAAAAAAAAAAA, the odd bits
//	R11  mask: stops, that is quotes and control characters
//	R12  mask: backslashes
//	R13  mask: u
//	R14  not 0 if there was a stop or a backslash a short while ago
//
// A block without stops and backslashes, and with nothing from the one before,
// is plain and needs no more work. In text where every other block is plain the
// branch that takes the short way would be guessed wrong all the time, which
// costs more than it saves. So it is taken only after four plain blocks: R14.

// ESCAPED works out which bytes are escaped: BX. CX becomes the next R8. Escaped
// stops are none and leave R11.
//
// In a run of backslashes each second one is escaped, and so is what follows a
// run of odd length. AX is the backslashes without one that is escaped from the
// block before; AX+AX is what they stand before. With the odd bits set in it,
// subtracting AX runs a borrow through each run of backslashes, and the result
// differs from the odd bits exactly at the backslashes that escape, and at the
// byte behind each run of odd length. XOR with all backslashes leaves the bytes
// that are escaped. This is simdjson's way; it has no branches.
#define ESCAPED \
	ANDNQ R12, R8, AX; \
	LEAQ  (AX)(AX*1), CX; \
	ORQ   R10, CX; \
	SUBQ  AX, CX; \
	XORQ  R10, CX; \
	MOVQ  R12, BX; \
	ORQ   R8, BX; \
	XORQ  CX, BX; \
	ANDQ  R12, CX; \
	SHRQ  $63, CX; \
	ANDNQ R11, BX, R11

// MEET notes in R14 whether the block has a stop or a backslash.
#define MEET \
	MOVL    $8, DX;        \
	SHRL    $1, R14;       \
	MOVQ    R11, AX;       \
	ORQ     R12, AX;       \
	CMOVLNE DX, R14

// HEXWANTED works out where hex digits must be: AX, the four bytes behind each
// escaped u, by a multiplication with 0b11110. What leaves the product at its
// upper end, R13, is the next R9. Two u that are less than five bytes apart make
// the sum wrong, but only above the second one's backslash, and that stands
// where a hex digit must be.
#define HEXWANTED \
	ANDQ  BX, R13; \
	MOVL  $30, DX; \
	MULXQ R13, AX, R13; \
	ORQ   R9, AX

// NEXT goes on to the next block, unless there is a stop, or an error: AX.
#define NEXT \
	MOVQ AX, BX;           \
	ORQ  R11, BX;          \
	JNE  decide;           \
	MOVQ CX, R8;           \
	MOVQ R13, R9;          \
	ADDQ $64, SI;          \
	JMP  block

// DECIDE comes when NEXT does not go on. It looks for an error before the first
// stop, for what is behind that is no part of the string.
#define DECIDE \
	BLSMSKQ R11, BX;       \
	TESTQ   BX, AX;        \
	JNE     leave;         \
	TZCNTQ  R11, R11;      \
	ADDQ    R11, SI;       \
	JMP     return

// LEAVE gives the block back unread, from the backslash of the escape on that
// reaches into it, if one does: with n digits of a \u escape to come, 6-n of its
// bytes have been.
#define LEAVE \
	SUBQ    R8, SI;        \
	TESTQ   R9, R9;        \
	JEQ     return;        \
	POPCNTQ R9, R9;        \
	LEAQ    -6(SI)(R9*1), SI

// For AVX2, what a byte may be is a set of bits. A byte is in the sets that both
// of its halves name, so there is a table for each half:
//
//	0x01  " /        column 2: halves 2 and f
//	0x02  \          column 5: half c
//	0x04  b f n      column 6: halves 2, 6 and e
//	0x08  r t u      column 7: halves 2, 4 and 5
//	0x10  0 to 9     column 3: halves 0 to 9
//	0x20  A-F a-f    columns 4 and 6: halves 1 to 6
//	0x80  u          column 7: half 5
//
// So what may follow a backslash has a bit of 0x0f; hex digits are the positive
// numbers above 0x0f; u has the sign bit. Of a byte that is not ASCII VPSHUFB
// makes 0.

// By the lower half.
DATA lower<>+0(SB)/8, $0x1034B838303D3010 // 7 6 5 4 3 2 1 0
DATA lower<>+8(SB)/8, $0x0104000200001010 // f e d c b a 9 8
GLOBL lower<>(SB), RODATA|NOPTR, $16

// By the upper half, the column.
DATA upper<>+0(SB)/8, $0x8824022010010000 // 7 6 5 4 3 2 1 0
DATA upper<>+8(SB)/8, $0x0000000000000000
GLOBL upper<>(SB), RODATA|NOPTR, $16

DATA bytes<>+0(SB)/1, $0x02
DATA bytes<>+1(SB)/1, $0x20
DATA bytes<>+2(SB)/1, $0x5c
DATA bytes<>+3(SB)/1, $0x0f
GLOBL bytes<>(SB), RODATA|NOPTR, $4

// MASK makes the sign bits of the bytes of two vectors a mask.
#define MASK(first, second, tmp, mask) \
	VPMOVMSKB first, mask; \
	VPMOVMSKB second, tmp; \
	SHLQ      $32, tmp; \
	ORQ       tmp, mask

// func skipAVX2(b []byte, i int) int
//
//	DI   the last place where a block can be read
//	Y8   0x02 in each byte
//	Y9   0x20
//	Y10  0x5c, the backslash
//	Y11  lower
//	Y12  upper
//	Y13  0x0f
//	Y14  0
TEXT ·skipAVX2(SB), NOSPLIT, $0-40
	MOVQ b_base+0(FP), SI
	MOVQ b_len+8(FP), DI
	LEAQ -64(SI)(DI*1), DI
	ADDQ i+24(FP), SI
	XORL R8, R8
	XORL R9, R9
	XORL R14, R14
	MOVQ $0xAAAAAAAAAAAAAAAA, R10
	VPBROADCASTB   bytes<>+0(SB), Y8
	VPBROADCASTB   bytes<>+1(SB), Y9
	VPBROADCASTB   bytes<>+2(SB), Y10
	VBROADCASTI128 lower<>(SB), Y11
	VBROADCASTI128 upper<>(SB), Y12
	VPBROADCASTB   bytes<>+3(SB), Y13
	VPXOR          Y14, Y14, Y14

block:
	CMPQ SI, DI
	JHI  leave
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1

	// Y2, Y3: stops. With bit 1 flipped, the quote is 0x20, the controls are
	// below it, and nothing else is.
	VPXOR    Y8, Y0, Y2
	VPXOR    Y8, Y1, Y3
	VPMINUB  Y9, Y2, Y4
	VPMINUB  Y9, Y3, Y5
	VPCMPEQB Y2, Y4, Y2
	VPCMPEQB Y3, Y5, Y3

	// Y4, Y5: backslashes.
	VPCMPEQB Y10, Y0, Y4
	VPCMPEQB Y10, Y1, Y5

	// The short way, if the block is plain.
	VPOR      Y2, Y4, Y6
	VPOR      Y3, Y5, Y7
	VPOR      Y6, Y7, Y6
	VPMOVMSKB Y6, AX
	ORL       R8, AX
	ORL       R9, AX
	ORL       R14, AX
	JNE       full
	ADDQ      $64, SI
	JMP       block

full:
	// Y0, Y1: the sets that the bytes are in.
	VPSRLW  $4, Y0, Y6
	VPSRLW  $4, Y1, Y7
	VPAND   Y13, Y6, Y6
	VPAND   Y13, Y7, Y7
	VPSHUFB Y6, Y12, Y6
	VPSHUFB Y7, Y12, Y7
	VPSHUFB Y0, Y11, Y0
	VPSHUFB Y1, Y11, Y1
	VPAND   Y6, Y0, Y0
	VPAND   Y7, Y1, Y1

	MASK(Y2, Y3, AX, R11)
	MASK(Y4, Y5, AX, R12)
	MASK(Y0, Y1, AX, R13)
	MEET
	ESCAPED
	HEXWANTED

	// AX: the errors. These are bytes that should be hex digits and are not,
	VPCMPGTB Y13, Y0, Y2
	VPCMPGTB Y13, Y1, Y3
	MASK(Y2, Y3, DX, R12)
	ANDNQ    AX, R12, AX

	// and escaped bytes that may not be escaped.
	VPAND    Y13, Y0, Y0
	VPAND    Y13, Y1, Y1
	VPCMPEQB Y14, Y0, Y0
	VPCMPEQB Y14, Y1, Y1
	MASK(Y0, Y1, DX, R12)
	ANDQ     BX, R12
	ORQ      R12, AX

	NEXT
decide:
	DECIDE
leave:
	LEAVE
return:
	SUBQ b_base+0(FP), SI
	MOVQ SI, ret+32(FP)
	VZEROUPPER
	RET

// For AVX-512, the sets of all ASCII characters:
//
//	0x01  stops
//	0x02  backslash
//	0x04  may follow a backslash: " \ / b f n r t u
//	0x08  hex digits
//	0x10  u
DATA ascii<>+0x00(SB)/8, $0x0101010101010101
DATA ascii<>+0x08(SB)/8, $0x0101010101010101
DATA ascii<>+0x10(SB)/8, $0x0101010101010101
DATA ascii<>+0x18(SB)/8, $0x0101010101010101
DATA ascii<>+0x20(SB)/8, $0x0000000000050000 // "
DATA ascii<>+0x28(SB)/8, $0x0400000000000000 // /
DATA ascii<>+0x30(SB)/8, $0x0808080808080808 // 0 to 7
DATA ascii<>+0x38(SB)/8, $0x0000000000000808 // 8 9
DATA ascii<>+0x40(SB)/8, $0x0008080808080800 // A to F
DATA ascii<>+0x48(SB)/8, $0x0000000000000000
DATA ascii<>+0x50(SB)/8, $0x0000000000000000
DATA ascii<>+0x58(SB)/8, $0x0000000600000000 // backslash
DATA ascii<>+0x60(SB)/8, $0x000C0808080C0800 // f e d c b a
DATA ascii<>+0x68(SB)/8, $0x0004000000000000 // n
DATA ascii<>+0x70(SB)/8, $0x0000140400040000 // u t r
DATA ascii<>+0x78(SB)/8, $0x0000000000000000
GLOBL ascii<>(SB), RODATA|NOPTR, $128

DATA sets<>+0(SB)/1, $0x01
DATA sets<>+1(SB)/1, $0x02
DATA sets<>+2(SB)/1, $0x04
DATA sets<>+3(SB)/1, $0x08
DATA sets<>+4(SB)/1, $0x10
DATA sets<>+5(SB)/1, $0x7f
GLOBL sets<>(SB), RODATA|NOPTR, $6

// func skipAVX512(b []byte, i int) int
//
//	DI   the end of b
//	Z8   ascii, the first half
//	Z9   ascii, the second half
//	Z10  0x7f in each byte
//	Z11  0x01: stops
//	Z12  0x02: backslashes
//	Z13  0x04: may be escaped
//	Z14  0x08: hex digits
//	Z16  0x10: u
TEXT ·skipAVX512(SB), NOSPLIT, $0-40
	MOVQ b_base+0(FP), SI
	MOVQ b_len+8(FP), DI
	ADDQ SI, DI
	ADDQ i+24(FP), SI
	XORL R8, R8
	XORL R9, R9
	XORL R14, R14
	MOVQ $0xAAAAAAAAAAAAAAAA, R10
	VMOVDQU64    ascii<>+0(SB), Z8
	VMOVDQU64    ascii<>+64(SB), Z9
	VPBROADCASTB sets<>+5(SB), Z10
	VPBROADCASTB sets<>+0(SB), Z11
	VPBROADCASTB sets<>+1(SB), Z12
	VPBROADCASTB sets<>+2(SB), Z13
	VPBROADCASTB sets<>+3(SB), Z14
	VPBROADCASTB sets<>+4(SB), Z16
	VPORQ        Z11, Z12, Z17

block:
	LEAQ 64(SI), AX
	CMPQ AX, DI
	JHI  last
	VPMINUB (SI), Z10, Z0

masks:
	// Z0: the sets that the bytes are in. Those that are not ASCII have become
	// 0x7f, which is in none.
	VPERMI2B Z9, Z8, Z0

	// The short way, if the block is plain.
	MOVQ     R8, AX
	ORQ      R9, AX
	ORQ      R14, AX
	JNE      full
	VPTESTMB Z17, Z0, K1
	KORTESTQ K1, K1
	JNE      full
	ADDQ     $64, SI
	JMP      block

	// The bytes behind the end of b are not read. They are 0 here, so the end
	// is a stop.
last:
	MOVQ  DI, CX
	SUBQ  SI, CX
	MOVQ  $-1, AX
	BZHIQ CX, AX, AX
	KMOVQ AX, K1
	VMOVDQU8.Z (SI), K1, Z0
	VPMINUB Z0, Z10, Z0
	JMP   masks

full:
	VPTESTMB  Z11, Z0, K2
	VPTESTMB  Z12, Z0, K3
	VPTESTMB  Z16, Z0, K4
	VPTESTNMB Z14, Z0, K5
	VPTESTNMB Z13, Z0, K6
	KMOVQ     K2, R11
	KMOVQ     K3, R12
	KMOVQ     K4, R13
	MEET
	ESCAPED
	HEXWANTED

	// AX: the errors. These are bytes that should be hex digits and are not,
	// and escaped bytes that may not be escaped.
	KMOVQ K5, R12
	ANDQ  R12, AX
	KMOVQ K6, R12
	ANDQ  BX, R12
	ORQ   R12, AX

	NEXT
decide:
	DECIDE
leave:
	LEAVE
return:
	SUBQ b_base+0(FP), SI
	MOVQ SI, ret+32(FP)
	VZEROUPPER
	RET
