//go:build linux

// Where the kernel enters a program that was linked with -E, see entry in entry_amd64.go. Nothing of Go is there yet: the
// words at SP are those of the ABI's "process initialization" (argument count, arguments), and what lies below SP is free.

#include "textflag.h"

#define SYS_read       0
#define SYS_write      1
#define SYS_exit_group 231
#define EINTR          4

// name is childName, with the zero that ends it.
DATA ·name+0(SB)/8, $"cniblock"
DATA ·name+8(SB)/7, $"s-reap\x00"
GLOBL ·name(SB), RODATA|NOPTR, $15

// func entry()
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	CMPQ 0(SP), $1 // one argument, and it is name: compared as two words that overlap
	JNE  program
	MOVQ 8(SP), SI
	MOVQ ·name+0(SB), AX
	CMPQ AX, 0(SI)
	JNE  program
	MOVQ ·name+7(SB), AX
	CMPQ AX, 7(SI)
	JNE  program

receive:
	MOVL $SYS_read, AX
	MOVL $4, DI // childPipe
	LEAQ -256(SP), SI
	MOVL $256, DX
	SYSCALL
	CMPQ AX, $-EINTR
	JEQ  receive
	CMPQ AX, $0
	JLE  failed

	MOVQ AX, DX
	MOVL $SYS_write, AX // a netlink socket without a peer talks to the kernel
	MOVL $3, DI // childSock
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
	JMP _rt0_amd64_linux(SB)
