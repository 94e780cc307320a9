package bridge

import (
	"context"

	"github.com/cniblocks/cniblocks/internal/undo"
	"github.com/cniblocks/cniblocks/veth"
)

func hasReference(ctx context.Context, j *job) bool                                    { return false }
func removeReference(ctx context.Context, j *job) error                                { return nil }
func (j *job) guard(ctx context.Context, p veth.Pair, m veth.MAC, u *undo.Stack) error { return nil }
func (j *job) unguard(ctx context.Context) error                                       { return nil }
func (j *job) checkGuard(ctx context.Context, p present) error                         { return nil }
