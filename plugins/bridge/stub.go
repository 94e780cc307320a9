package bridge

import (
	"context"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/undo"
	"github.com/cniblocks/cniblocks/veth"
)

type snat struct{}

func (j *job) openSNAT() (snat, error)                                                 { return snat{}, nil }
func (s snat) ensure(ctx context.Context, res *cni.Result, u *undo.Stack) error        { return nil }
func (j *job) guard(ctx context.Context, p veth.Pair, m veth.MAC, u *undo.Stack) error { return nil }
func (j *job) forget(ctx context.Context) error                                        { return nil }
func (j *job) sweep(ctx context.Context) error                                         { return nil }
func (j *job) checkGuard(ctx context.Context, p present) error                         { return nil }
func (j *job) checkSNAT(ctx context.Context, reference bool) error                     { return nil }
