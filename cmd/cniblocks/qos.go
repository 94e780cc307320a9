//go:build linux

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/shape"
)

const qosText = `Usage: cniblocks qos [POD] [--ingress RATE] [--egress RATE] [OPTIONS]

Shows the rates at which pods receive (ingress) and send (egress), and changes those of a running pod at
once, whether its conflist has the plugin bandwidth or not. POD is a container ID, or its beginning, or
the name of a pod, as NAME or NAMESPACE/NAME. Without POD all pods with limits are listed.

A RATE is in bits per second, with k, M, G or T for powers of 1000: 500k, 10M, 2.5G. "none" lifts a limit.
A rate that is set here is marked so: CHECK takes it in place of that of the conflist or the runtime. It
goes with the DEL of the pod, not before.

Examples:

  sudo cniblocks qos
  sudo cniblocks qos web
  sudo cniblocks qos 0123456789ab --ingress 10M --egress 500k
  sudo cniblocks qos default/web --ingress none
`

// defaultCacheDir is where libcni keeps what runtimes asked, with the names of pods.
const defaultCacheDir = "/var/lib/cni"

// limited is a pod's interface with its limits, as the pod sees them.
type limited struct {
	Network     string      `json:"network"`
	ContainerID string      `json:"containerID"`
	Pod         string      `json:"pod,omitempty"`
	IfName      string      `json:"ifname"`
	HostEnd     string      `json:"hostEnd"`
	Ingress     shape.Limit `json:"ingress"`
	Egress      shape.Limit `json:"egress"`
}

func qos(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("qos", qosText)
	var dirs list
	var in, eg direction
	o.Var(&in.rate, "ingress", "what the pod may receive, a `RATE` such as 10M, or none")
	o.Var(&eg.rate, "egress", "what the pod may send, a `RATE` such as 10M, or none")
	o.Uint64Var(&in.burst, "ingress-burst", 0, "`BYTES` that it may receive at once after a pause; what fits the rate if not given")
	o.Uint64Var(&eg.burst, "egress-burst", 0, "`BYTES` that it may send at once after a pause; what fits the rate if not given")
	ifName := o.String("interface", "", "the `NAME` of the interface in the pod, where it has several")
	network := o.String("network", "", "the `NAME` of the network, where the pod is in several")
	format := o.String("o", "text", "the `FORM`: text, or json for programs")
	path := o.String("netns", "", "the node's namespace, a `PATH` or a name of ip-netns(8); this one if not given")
	confDir := o.String("conf-dir", inventory.DefaultConfDir, "where conflists are, a `DIR`; they say where leases are")
	cacheDir := o.String("cache-dir", defaultCacheDir, "where the runtime keeps the names of pods, a `DIR`")
	o.Var(&dirs, "data-dir", "where leases are, a `DIR`, in place of the usual ones; may be given several times")
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	if wrong := wrongQoS(words, in, eg, *format); wrong != "" {
		fmt.Fprintf(errs, "cniblocks qos: %s; 'cniblocks qos --help' explains\n", wrong)
		return misuse
	}
	ns, err := openNS(*path)
	if err != nil {
		return complain(errs, "qos", err)
	}
	defer ns.Close()
	node, err := inventory.Read(ctx, inventory.Options{NS: ns, DataDirs: dirs, ConfDir: *confDir, Network: *network})
	if err != nil {
		return complain(errs, "qos", err)
	}
	if *network != "" {
		node = node.Only(*network)
	}
	pods := limitedOf(node, podNames(*cacheDir), words, *ifName)
	switch {
	case len(words) == 0:
		pods = slices.DeleteFunc(pods, func(p limited) bool { return p.Ingress == shape.Limit{} && p.Egress == shape.Limit{} })
	case len(pods) == 0:
		return complain(errs, "qos", fmt.Errorf("no interface here is of a pod or container %q; 'cniblocks show' says which there are", words[0]))
	case in.rate.given || eg.rate.given:
		if err := only(pods); err != nil {
			return complain(errs, "qos", err)
		}
		if err := pods[0].set(ctx, ns, in, eg); err != nil {
			return complain(errs, "qos", err)
		}
	}
	return printQoS(pods, *format, out, errs)
}

func wrongQoS(words []string, in, eg direction, format string) string {
	switch {
	case format != "text" && format != "json":
		return fmt.Sprintf("-o %s: want text or json", format)
	case in.burst != 0 && in.rate.value == 0:
		return fmt.Sprintf("--ingress-burst %d is given without a rate; want --ingress too", in.burst)
	case eg.burst != 0 && eg.rate.value == 0:
		return fmt.Sprintf("--egress-burst %d is given without a rate; want --egress too", eg.burst)
	case len(words) == 0 && (in.rate.given || eg.rate.given):
		return "a rate is given, and no pod"
	}
	return ""
}

// only fails unless there is one, and says which there are.
func only(pods []limited) error {
	if len(pods) == 1 {
		return nil
	}
	var which []string
	for _, p := range pods {
		which = append(which, p.ContainerID+" "+p.IfName+" of network "+p.Network)
	}
	return fmt.Errorf("there are several: %s; say more of the container ID, --network or --interface", strings.Join(which, ", "))
}

// direction is what is to be of one.
type direction struct {
	rate  rate
	burst uint64
}

// over is the limit that is to be in the place of the one that is.
func (w direction) over(have shape.Limit) shape.Limit {
	if !w.rate.given || w.rate.value == 0 && have == (shape.Limit{}) {
		return have
	}
	return shape.Limit{Rate: w.rate.value, Burst: w.burst, Held: true}
}

// limitedOf are the interfaces of a container or pod, of all if no word names one.
func limitedOf(n *inventory.Node, names map[string]string, words []string, ifName string) (pods []limited) {
	for _, a := range n.Attachments {
		name := names[a.ContainerID]
		_, bare, _ := strings.Cut(name, "/")
		if a.ContainerID == "" || ifName != "" && a.IfName != ifName ||
			len(words) > 0 && words[0] != name && words[0] != bare && !strings.HasPrefix(a.ContainerID, words[0]) {
			continue
		}
		p := limited{Network: a.Network, ContainerID: a.ContainerID, Pod: name, IfName: a.IfName, HostEnd: a.HostEnd}
		for _, r := range n.Rates {
			if r.Device == a.HostEnd {
				p.Ingress, p.Egress = r.Out, r.In
			}
		}
		pods = append(pods, p)
	}
	if len(words) > 0 {
		if exact := slices.DeleteFunc(slices.Clone(pods), func(p limited) bool { return p.ContainerID != words[0] }); len(exact) > 0 {
			return exact
		}
	}
	return pods
}

// set changes the limits of the host end. A device that it makes for that goes with the DEL of the bandwidth plugin, or with that
// of a main plugin of ours, which knows by the group of the host end that there is one.
func (p *limited) set(ctx context.Context, ns *netns.NS, in, eg direction) error {
	end, err := link.Get(ctx, ns, p.HostEnd)
	if err != nil {
		return err
	}
	d := attach.Shaped(p.Network, cni.Attachment{ContainerID: p.ContainerID, IfName: p.IfName}, end.Name)
	if strings.HasPrefix(end.Alias, link.Root) {
		d.Owner = end.Alias
	}
	l := shape.Limits{Out: in.over(p.Ingress), In: eg.over(p.Egress)}
	helper, err := shape.Ensure(ctx, ns, d, l)
	if err != nil {
		return err
	}
	if helper.Index != 0 && end.Group == 0 {
		if err := link.Apply(ctx, ns, rtnl.SetLink(rtnl.Set{Index: end.Index, Group: shape.Group})); err != nil {
			return err
		}
	}
	p.Ingress, p.Egress = l.Out.Complete(end.MTU), l.In.Complete(end.MTU)
	return nil
}

func printQoS(pods []limited, format string, out, errs io.Writer) int {
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(slices.Concat([]limited{}, pods)); err != nil {
			return complain(errs, "qos", err)
		}
		return 0
	}
	if len(pods) == 0 {
		fmt.Fprintln(out, "no pod has a limit")
	}
	for _, p := range pods {
		fmt.Fprintf(out, "%s %s: receives %s, sends %s\n", cmp.Or(p.Pod, short(p.ContainerID)), p.IfName, said(p.Ingress), said(p.Egress))
	}
	return 0
}

func said(l shape.Limit) string {
	if l.Rate == 0 {
		return l.String()
	}
	return fmt.Sprintf("%s with a burst of %d kB", l, (l.Burst+500)/1000)
}

// podNames are the names of pods, as NAMESPACE/NAME, by container ID, as far as libcni's cache tells. One that cannot be read
// tells none.
func podNames(cacheDir string) map[string]string {
	names := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(cacheDir, "results", "*"))
	for _, file := range files {
		var entry struct {
			ContainerID string      `json:"containerId"`
			Args        [][2]string `json:"cniArgs"`
		}
		b, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(b, &entry) != nil {
			continue
		}
		args := map[string]string{}
		for _, kv := range entry.Args {
			args[kv[0]] = kv[1]
		}
		if name := args["K8S_POD_NAME"]; name != "" {
			names[entry.ContainerID] = args["K8S_POD_NAMESPACE"] + "/" + name
		}
	}
	return names
}

// rate is the value of an option: bits in a second; none is 0.
type rate struct {
	value uint64
	given bool
}

func (r *rate) String() string { return "" }

func (r *rate) Set(s string) error {
	v, err := parseRate(s)
	if err != nil {
		return err
	}
	*r = rate{v, true}
	return nil
}

func parseRate(s string) (uint64, error) {
	if s == "none" {
		return 0, nil
	}
	wrong := errors.New(`want bits per second, such as 500k, 10M or 2.5G, or none`)
	number := strings.TrimSuffix(strings.TrimSuffix(s, "/s"), "bit")
	factor := 1.0
	for suffix, f := range map[string]float64{"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, factor = n, f
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(number, "xXpP_eEnN") {
		return 0, wrong
	}
	if v *= factor; v < 8 || v > 1e15 {
		return 0, errors.New(`want 8 bit/s to 1000T, or none`)
	}
	return uint64(v), nil
}
