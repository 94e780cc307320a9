//go:build linux

// Where the kernel enters a program that was linked with -E, see entry in entry_amd64.go. Nothing of Go is there yet: the
// words at SP are those of the ABI's "process initialization" (argument count, arguments, 0, environment, 0, auxiliary
// vector), and what lies below SP is free.

#include "go_asm.h"
#include "textflag.h"

#define SYS_read              0
#define SYS_write             1
#define SYS_sched_getaffinity 204
#define SYS_exit_group        231
#define SYS_getcpu            309
#define PR_GET_TIMERSLACK     30
#define EINTR                 4

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
	MOVL $const_sysPrlimit64, AX
	MOVL $0, DI // this process
	MOVL $const_rlimitNofile, SI
	MOVL $0, DX
	MOVQ $·limit(SB), R10
	SYSCALL
	CMPQ AX, $0
	JNE  timers
	MOVL $const_sysPrlimit64, AX
	MOVQ $3, -16(SP) // 0, 1 and 2, which the runtime opens where they are not
	MOVQ ·limit+8(SB), DX
	MOVQ DX, -8(SP)
	LEAQ -16(SP), DX
	MOVL $0, R10
	SYSCALL

timers:
	MOVL $const_sysPrctl, AX
	MOVL $PR_GET_TIMERSLACK, DI
	SYSCALL
	CMPQ AX, $0 // 0 for a thread that has a real-time policy
	JLE  processor
	CMPQ AX, $const_patience
	JGE  processor
	MOVQ AX, ·slack(SB)
	MOVL $const_sysPrctl, AX
	MOVL $const_prSetTimerslack, DI
	MOVL $const_patience, SI
	SYSCALL

processor:
	MOVL $SYS_sched_getaffinity, AX // an error where the machine has more than most
	MOVL $0, DI
	MOVL $const_most/8, SI
	MOVQ $·cpus(SB), DX
	SYSCALL
	CMPQ AX, $0
	JLE  environment
	MOVL $SYS_getcpu, AX
	LEAQ -8(SP), DI
	MOVL $0, SI
	MOVL $0, DX
	SYSCALL
	CMPQ AX, $0
	JNE  environment
	MOVL $0, AX
	MOVL $const_most/64, CX
	LEAQ -(const_most/8+8)(SP), DI
	CLD
	REP; STOSQ
	MOVL -8(SP), CX // less than most, as the mask of all of them fits
	LEAQ -(const_most/8+8)(SP), DX
	BTSQ CX, (DX)   // counts on into the words that follow
	MOVL $const_sysSchedSetaffinity, AX
	MOVL $0, DI
	MOVL $const_most/8, SI
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

// func call(number, a, b, c, d uintptr) (r int)
TEXT ·call(SB), NOSPLIT, $0-48
	MOVQ number+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ c+24(FP), DX
	MOVQ d+32(FP), R10
	SYSCALL
	MOVQ AX, r+40(FP)
	RET
