//go:build linux

package agent

import "time"

// clock is when the loop does what: all its timers, and whether it may do now what it was told to.
type clock struct {
	retry   *time.Timer  // of another try
	again   *time.Timer  // of another look at parameters and rules
	grace   *time.Timer  // until which the store has time
	resync  *time.Ticker // of a look at everything
	beat    *time.Ticker // of a sign of life, and of a look at what nobody announces
	turn    turn
	retries retries
	backoff time.Duration // of the last try; 0: it succeeded
	tokens  float64       // of the budget, see affordable
	at      time.Time     // when they were counted
}

// turn is what the loop does next.
type turn uint8

const (
	working turn = iota // what is due
	waiting             // for the time of another try, or for news
)

// retries is why there will be another try without news.
type retries uint8

const (
	noRetry    retries = iota
	afterError         // what is due failed
	postponed          // a look at everything, in place of one that was too much
)

func newClock(a *Agent) clock {
	c := clock{retry: time.NewTimer(time.Hour), again: time.NewTimer(time.Hour), grace: time.NewTimer(a.Grace), resync: time.NewTicker(a.Resync), beat: time.NewTicker(a.Look)}
	c.retry.Stop()
	c.again.Stop()
	return c
}

func (c *clock) stop() {
	for _, t := range []interface{ Stop() bool }{c.retry, c.again, c.grace} {
		t.Stop()
	}
	c.resync.Stop()
	c.beat.Stop()
}

// succeeded ends the tries of what failed.
func (c *clock) succeeded() {
	c.backoff = 0
	if c.retries == afterError {
		c.retries = noRetry
		c.retry.Stop()
	}
}

// failed plans another try, and has the loop wait for it.
func (c *clock) failed() {
	c.backoff = min(max(2*c.backoff, 200*time.Millisecond), 30*time.Second)
	if c.retries != postponed {
		c.retries = afterError
		c.retry.Reset(c.backoff)
	}
	c.turn = waiting
}

// affordable reports whether there may be a repair, or another try, now; else it plans one. It bounds how often another
// program can make the agent repair: forty at once, eight a second.
func (c *clock) affordable() bool {
	const burst, perSecond = 40, 8
	now := time.Now()
	if c.at.IsZero() {
		c.tokens = burst
	} else {
		c.tokens = min(burst, c.tokens+now.Sub(c.at).Seconds()*perSecond)
	}
	c.at = now
	if c.tokens >= 1 {
		c.tokens--
		return true
	}
	if c.retries != postponed {
		c.retries = postponed
		c.retry.Reset(time.Second)
	}
	return false
}
