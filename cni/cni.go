// Package cni is the border to the CNI specification: what a plugin is, what it is asked, what it answers, and how one
// plugin calls another.
//
// [Main] turns a [Plugin] into a program. [Delegates] calls other plugins, in this process where they are linked in and as
// a child process where the administrator put another binary of that name into CNI_PATH. Results are kept in one form and
// translated to every version of the specification from 0.1.0 to 1.1.0.
//
// Out of scope: reading conflists, running chains, caching results. That is the runtime's part, see
// github.com/containernetworking/cni/libcni.
package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Plugin is the program itself, a delegate in the same process, and one that is executed. Errors carry a code of the
// specification, see [Error].
type Plugin interface {
	// Add attaches the container to the network (CNI specification, section 2, ADD).
	Add(context.Context, *Request) (*Result, error)
	// Del takes the attachment away; what is not there is not an error (DEL).
	Del(context.Context, *Request) error
	// Check fails if the attachment is not as Add left it (CHECK).
	Check(context.Context, *Request) error
	// Status fails if an Add could not succeed now (STATUS).
	Status(context.Context, *Request) error
	// GC takes away the attachments of the network that are not in Request.Valid (GC).
	GC(context.Context, *Request) error
}

// Verb is a CNI_COMMAND.
type Verb string

// The verbs of CNI 1.1.0 (specification, section 2).
const (
	ADD     Verb = "ADD"
	DEL     Verb = "DEL"
	CHECK   Verb = "CHECK"
	STATUS  Verb = "STATUS"
	GC      Verb = "GC"
	VERSION Verb = "VERSION"
)

// Attachment names one interface of one container, as the runtime knows it.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Request is what a plugin is asked. Fields that the verb does not have are zero. It is large since the specification asks with
// as many parameters.
type Request struct {
	Verb        Verb
	ContainerID string
	NetNS       string // CNI_NETNS; may be empty for DEL
	IfName      string
	Args        string   // CNI_ARGS as it came; see [Request.Arg]
	Path        []string // CNI_PATH: where other plugins are
	NodeNetNS   bool     // CNI_NETNS may be the node's own network namespace: CNI_NETNS_OVERRIDE is 1 or true

	Version string // of the configuration; results are given in it
	Network string // the configuration's name
	Type    string // the configuration's type; one's own name where that is another name for it
	Config  json.RawMessage
	Prev    *Result      // prevResult; nil if there is none
	Valid   []Attachment // for GC: what the runtime still has

	Delegates Delegates // the plugins that are linked in

	warnings *[]string
	depth    int // how many plugins called one another to get here
	lent     any // the namespaces of Lend
}

// Attachment is the one that the request is about.
func (r *Request) Attachment() Attachment { return Attachment{r.ContainerID, r.IfName} }

// PrevIPs are the addresses that prevResult gives the interface in the container that the request is about; none without
// a prevResult.
func (r *Request) PrevIPs() (ips []IP) {
	if r.Prev == nil {
		return nil
	}
	for _, ip := range r.Prev.IPs {
		if ip.Interface == NoInterface {
			ips = append(ips, ip)
		} else if l := r.Prev.Interfaces[ip.Interface]; l.Name == r.IfName && l.Sandbox != "" {
			ips = append(ips, ip)
		}
	}
	return ips
}

// Warn notes something that a person should know and that keeps nothing from working. [Main] prints it to standard error
// and repeats it in what STATUS says.
func (r *Request) Warn(format string, a ...any) {
	if r.warnings == nil {
		r.warnings = &[]string{}
	}
	*r.warnings = append(*r.warnings, fmt.Sprintf(format, a...))
}

// Warnings are those noted so far, also by delegates in this process.
func (r *Request) Warnings() []string {
	if r.warnings == nil {
		return nil
	}
	return *r.warnings
}

// With is the same request with another verb and, if it is not nil, another configuration: what a plugin passes to its
// delegate. The name, type and prevResult are taken from that configuration.
func (r *Request) With(verb Verb, config json.RawMessage) (*Request, error) {
	if r.warnings == nil {
		r.warnings = &[]string{}
	}
	c := *r
	c.Verb = verb
	if config == nil {
		return &c, nil
	}
	c.Config = config
	return &c, c.readConfig()
}

// Arg is the value of a key of CNI_ARGS ("A=1;B=2"); keys are case-sensitive, those of others are passed over
// (specification, section 2, CNI_ARGS).
func (r *Request) Arg(key string) (string, bool) {
	for pair := range strings.SplitSeq(r.Args, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok && k == key {
			return v, true
		}
	}
	return "", false
}
