package etcd

import (
	"context"
	"fmt"
	"io/fs"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Config reads the network's configuration, complete by [flannel.Config.Ranges]. It waits for the store until ctx is done.
// That there is none is [io/fs.ErrNotExist].
func (s *Store) Config(ctx context.Context) (flannel.Config, error) {
	var r *clientv3.GetResponse
	err := s.retry(ctx, "read "+s.configKey(), func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, s.configKey())
		return err
	})
	if err != nil {
		return flannel.Config{}, err
	}
	c, err := s.parseConfig(r.Kvs)
	if err != nil {
		return c, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil || *s.config != c {
		s.config = &c
		s.woke()
	}
	return c, nil
}

// WatchConfig yields the network's configuration as it is, and again whenever it has changed, until ctx is done. An error
// is a report, told once: while the store cannot be reached the last configuration stands beside it, and where what is
// stored is no configuration the zero value. Nothing follows from a change: which peers are good is judged by what
// [Store.Config] or [Store.Acquire] read last.
func (s *Store) WatchConfig(ctx context.Context) iter.Seq2[flannel.Config, error] {
	return func(yield func(flannel.Config, error) bool) {
		var t teller
		var good, last flannel.Config
		for u := range s.follow(ctx, s.configKey()) {
			c, err := good, u.err
			switch {
			case u.whole:
				c, err = s.parseConfig(u.all)
			case len(u.events) > 0:
				c, err = s.parseConfig(present(u.events[len(u.events)-1]))
			case err == nil:
				continue
			}
			if u.err == nil {
				good = c
			}
			if t.news(c != last, err) && !yield(c, err) {
				return
			}
			last = c
		}
	}
}

// present is the key after an event, if it is there.
func present(e *clientv3.Event) []*mvccpb.KeyValue {
	if e.Type == clientv3.EventTypeDelete {
		return nil
	}
	return []*mvccpb.KeyValue{e.Kv}
}

// teller knows what was told last.
type teller struct {
	told bool
	text string
}

// news reports whether there is something to tell: something changed, or the trouble is another than before. That nobody
// answers is one trouble, however it shows.
func (t *teller) news(changed bool, err error) bool {
	text := fmt.Sprint(err)
	if err != nil && passing(err) {
		text = "unreachable"
	}
	news := changed || !t.told || text != t.text
	t.told, t.text = true, text
	return news
}

func (s *Store) configKey() string { return s.o.Prefix + "/config" }

func (s *Store) parseConfig(kvs []*mvccpb.KeyValue) (flannel.Config, error) {
	key := s.configKey()
	if len(kvs) == 0 {
		return flannel.Config{}, sentinel.Errorf(fs.ErrNotExist,
			`etcd key %s is not there: put the network there: etcdctl put %[1]s '{ "Network": "10.244.0.0/16", "Backend": { "Type": "vxlan" } }'`, key)
	}
	c, err := flannel.ParseConfig(kvs[0].Value)
	if err == nil {
		c, err = c.Ranges()
	}
	if err != nil {
		return flannel.Config{}, fmt.Errorf("etcd key %s: %w", key, err)
	}
	return c, nil
}
