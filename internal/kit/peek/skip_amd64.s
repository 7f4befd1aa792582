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

// What escaped characters stand for, by ASCII character.
DATA stands<>+0x00(SB)/8, $0
DATA stands<>+0x08(SB)/8, $0
DATA stands<>+0x10(SB)/8, $0
DATA stands<>+0x18(SB)/8, $0
DATA stands<>+0x20(SB)/8, $0x0000000000220000 // "
DATA stands<>+0x28(SB)/8, $0x2F00000000000000 // /
DATA stands<>+0x30(SB)/8, $0
DATA stands<>+0x38(SB)/8, $0
DATA stands<>+0x40(SB)/8, $0
DATA stands<>+0x48(SB)/8, $0
DATA stands<>+0x50(SB)/8, $0
DATA stands<>+0x58(SB)/8, $0x0000005C00000000 // backslash
DATA stands<>+0x60(SB)/8, $0x000C000000080000 // f b
DATA stands<>+0x68(SB)/8, $0x000A000000000000 // n
DATA stands<>+0x70(SB)/8, $0x00000009000D0000 // t r
DATA stands<>+0x78(SB)/8, $0
GLOBL stands<>(SB), RODATA|NOPTR, $128

DATA marks<>+0(SB)/1, $0x5c // backslash
DATA marks<>+1(SB)/1, $0x7f
DATA marks<>+2(SB)/1, $0x02
DATA marks<>+3(SB)/1, $0x20
GLOBL marks<>(SB), RODATA|NOPTR, $4

// func textAVX512(dst, src []byte) (nd, ns int)
//
// Each block begins between characters. Of a block, the bytes before the first
// are read that must be left to another block or to the caller: a stop, the
// backslash of an escape that stands for more or less than one byte, and a
// backslash at the block's end that escapes what is behind.
//
//	SI  the block           Z8   stands, the first half
//	DI  where its text is   Z9   stands, the second half
//	    written             Z10  backslashes
//	R9  the end of src      Z11  0x7f in each byte
//	R10 the odd bits        Z12  0x02
//	                        Z13  0x20
TEXT ·textAVX512(SB), NOSPLIT, $0-64
	MOVQ dst_base+0(FP), DI
	MOVQ src_base+24(FP), SI
	MOVQ src_len+32(FP), R9
	ADDQ SI, R9
	MOVQ $0xAAAAAAAAAAAAAAAA, R10
	VMOVDQU64    stands<>+0(SB), Z8
	VMOVDQU64    stands<>+64(SB), Z9
	VPBROADCASTB marks<>+0(SB), Z10
	VPBROADCASTB marks<>+1(SB), Z11
	VPBROADCASTB marks<>+2(SB), Z12
	VPBROADCASTB marks<>+3(SB), Z13

block:
	// R8: the block's length, 64 but for the last.
	MOVQ R9, AX
	SUBQ SI, AX
	JEQ  done
	CMPQ AX, $64
	JLT  last
	MOVL $64, R8
	VMOVDQU64 (SI), Z0

masks:
	// R12: backslashes. BX: escaped bytes. R13: the backslashes that escape.
	// ESCAPED says why, above. R11: stops, as skipAVX2 finds them.
	VPXORQ   Z12, Z0, Z1
	VPCMPEQB Z10, Z0, K1
	VPCMPUB  $2, Z13, Z1, K2
	KMOVQ    K1, R12
	KMOVQ    K2, R11
	LEAQ     (R12)(R12*1), R13
	ORQ      R10, R13
	SUBQ     R12, R13
	XORQ     R10, R13
	MOVQ     R12, BX
	XORQ     R13, BX
	ANDQ     R12, R13
	ANDNQ    R11, BX, R11

	// What the escaped stand for, 0 if that is not one byte. Those that are not
	// ASCII have become 0x7f, which stands for nothing.
	KMOVQ     BX, K3
	VPMINUB   Z11, Z0, Z1
	VPERMI2B  Z9, Z8, Z1
	VPTESTNMB Z1, Z1, K3, K2
	VMOVDQU8  Z1, K3, Z0

	// R11: also the backslashes before those. DX: where reading must end.
	KMOVQ K2, AX
	SHRQ  $1, AX
	ORQ   AX, R11
	LEAQ  -1(R8), CX
	SHRXQ CX, R13, DX
	SHLXQ CX, DX, DX
	ORQ   R11, DX

	// CX: how many bytes are read. Mostly all: that is better guessed than
	// waited for, since the next block's place depends on it.
	MOVQ   R8, CX
	TESTQ  DX, DX
	JEQ    write
	TZCNTQ DX, CX

write:
	// The backslashes before the escaped are left out, and what stays moves
	// together.
	NOTQ          R13
	BZHIQ         CX, R13, R13
	KMOVQ         R13, K4
	VPCOMPRESSB.Z Z0, K4, Z0
	POPCNTQ       R13, DX
	CMPQ          R8, $64
	JLT           writeLast

	// There is room for a whole block, for no text is longer than its escapes.
	VMOVDQU64 Z0, (DI)
	ADDQ      CX, SI
	ADDQ      DX, DI
	TESTQ     R11, R11
	JEQ       block
	JMP       done

	// The bytes behind the end of src are not read. They are 0 here, so the end
	// is a stop.
last:
	MOVQ  AX, R8
	MOVQ  $-1, BX
	BZHIQ R8, BX, BX
	KMOVQ BX, K1
	VMOVDQU8.Z (SI), K1, Z0
	JMP   masks

writeLast:
	MOVQ  $-1, AX
	BZHIQ DX, AX, AX
	KMOVQ AX, K1
	VMOVDQU8 Z0, K1, (DI)
	ADDQ  CX, SI
	ADDQ  DX, DI

done:
	SUBQ dst_base+0(FP), DI
	MOVQ DI, nd+48(FP)
	SUBQ src_base+24(FP), SI
	MOVQ SI, ns+56(FP)
	VZEROUPPER
	RET
