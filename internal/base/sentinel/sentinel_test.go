package sentinel_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/base/sentinel"
)

func TestAnErrorIsItsTargetAndWhatItWrapsAndReadsLikeNeither(t *testing.T) {
	t.Parallel()
	inner := errors.New("inner")
	for _, err := range []error{
		sentinel.Errorf(fs.ErrNotExist, "no route to %s: %w", "x", inner),
		fmt.Errorf("outer: %w", sentinel.Errorf(fs.ErrNotExist, "no route to %s: %w", "x", inner)),
	} {
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorIs(t, err, inner)
		require.NotErrorIs(t, err, fs.ErrExist)
		require.ErrorContains(t, err, "no route to x: inner")
		require.NotContains(t, err.Error(), fs.ErrNotExist.Error())
	}
}
