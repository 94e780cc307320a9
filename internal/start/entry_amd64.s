//go:build linux

// Where the kernel enters a program that was linked with -E, see entry in entry_amd64.go. Nothing of Go is there yet: the
// words at SP are those of the ABI's "process initialization" (argument count, arguments, 0, environment, 0, auxiliary
// vector), and what lies below SP is free.

#include "textflag.h"

#define SYS_read       0
#define SYS_write      1
#define SYS_exit_group 231
#define SYS_prlimit64  302
#define RLIMIT_NOFILE  7
#define EINTR          4

// child is reap's childName, with the zero that ends it.
DATA ·child+0(SB)/8, $"cniblock"
DATA ·child+8(SB)/7, $"s-reap\x00"
GLOBL ·child(SB), RODATA|NOPTR, $15

// variable sets Processors.
DATA ·variable+0(SB)/8, $"GOMAXPRO"
DATA ·variable+8(SB)/6, $"CS=01\x00"
GLOBL ·variable(SB), RODATA|NOPTR, $14

// func entry()
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	CMPQ 0(SP), $1 // one argument, and it is child: compared as two words that overlap
	JNE  program
	MOVQ 8(SP), SI
	MOVQ ·child+0(SB), AX
	CMPQ AX, 0(SI)
	JNE  program
	MOVQ ·child+7(SB), AX
	CMPQ AX, 7(SI)
	JNE  program

receive:
	MOVL $SYS_read, AX
	MOVL $4, DI // reap's childPipe
	LEAQ -256(SP), SI
	MOVL $256, DX
	SYSCALL
	CMPQ AX, $-EINTR
	JEQ  receive
	CMPQ AX, $0
	JLE  failed

	MOVQ AX, DX
	MOVL $SYS_write, AX // a netlink socket without a peer talks to the kernel
	MOVL $3, DI // reap's childSock
	LEAQ -256(SP), SI
	SYSCALL
	MOVL $0, DI
	CMPQ AX, $0
	JGE  exit

failed:
	MOVL $2, DI

exit:
	MOVL $SYS_exit_group, AX
	SYSCALL

program:
	MOVL $SYS_prlimit64, AX
	MOVL $0, DI // this process
	MOVL $RLIMIT_NOFILE, SI
	MOVL $0, DX
	MOVQ $·limit(SB), R10
	SYSCALL
	CMPQ AX, $0
	JNE  environment
	MOVL $SYS_prlimit64, AX
	MOVQ $3, -16(SP) // 0, 1 and 2, which the runtime opens where they are not
	MOVQ ·limit+8(SB), DX
	MOVQ DX, -8(SP)
	LEAQ -16(SP), DX
	MOVL $0, R10
	SYSCALL

environment:
	MOVQ 0(SP), AX
	LEAQ 16(SP)(AX*8), AX // the environment

next:
	ADDQ $8, AX
	CMPQ -8(AX), $0
	JNE  next

	// All up to the zero that ends it moves down by a word, and variable comes in between, as the last one: of two that
	// have the same name the runtime takes the first.
	LEAQ -8(AX), CX
	SUBQ SP, CX
	SHRQ $3, CX
	MOVQ SP, SI
	LEAQ -8(SP), DI
	CLD
	REP; MOVSQ
	MOVQ $·variable(SB), AX
	MOVQ AX, 0(DI)
	SUBQ $8, SP
	JMP  _rt0_amd64_linux(SB)

// func reopen()
TEXT ·reopen(SB), NOSPLIT, $0-0
	MOVL $SYS_prlimit64, AX
	MOVL $0, DI
	MOVL $RLIMIT_NOFILE, SI
	MOVQ $·limit(SB), DX
	MOVL $0, R10
	SYSCALL
	RET
