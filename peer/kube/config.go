package kube

import (
	"context"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/cniblocks/cniblocks/peer/flannel"
)

// configPoll is how often the file is read: that of a ConfigMap in a pod changes within a minute anyway.
const configPoll = 10 * time.Second

// Config is the configuration that [New] read, the zero value if none was named.
func (s *Store) Config(context.Context) (flannel.Config, error) { return s.config, nil }

// WatchConfig yields what the file with the configuration holds, and again whenever that has changed, until ctx is done.
// An error says why it is no configuration now; the zero value stands beside it. It yields nothing if none was named. Nothing
// follows from a change: the Store goes on with what [New] read.
func (s *Store) WatchConfig(ctx context.Context) iter.Seq2[flannel.Config, error] {
	return func(yield func(flannel.Config, error) bool) {
		if s.netConf == "" {
			return
		}
		tick := time.NewTicker(s.poll)
		defer tick.Stop()
		told, last, text := false, flannel.Config{}, ""
		for {
			c, err := readConfig(s.netConf)
			if now := fmt.Sprint(err); !told || c != last || now != text {
				told, last, text = true, c, now
				if !yield(c, err) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

func readConfig(path string) (flannel.Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return flannel.Config{}, fmt.Errorf("configuration of the pod network: %w", err)
	}
	c, err := flannel.ParseConfig(b)
	if err != nil {
		return flannel.Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}
