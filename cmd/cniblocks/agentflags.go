//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/nearest"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// settings are those of the agent, from its flags, the environment and its configuration file. It is large since each field is
// an option.
type settings struct {
	config, network, source, node, netns string

	nodeIP, canReach addrs
	iface            expression

	overlay.Config
	numbers        []*bounded // of it
	table, metric  number
	mtu            int
	underlay       family
	bridge, device string
	podNetwork     prefixList

	ipMasq        families
	ipMasqBackend string
	ipMasqExcept  prefixList

	etcdPrefix, etcdCA, etcdCert, etcdKey, etcdUser, etcdPassword, etcdPasswordFile string
	kubeconfig, netConf, annotations                                                string

	subnetFile, conflistFrom, conflistTo, listen string
	adopt                                        bool
	stateDir, dataDir, leaseDir, sysctlDir       string
	resync                                       time.Duration
	logLevel                                     slog.Level
	logFormat                                    string
}

func (s *settings) declare(o *options) {
	o.StringVar(&s.config, "config", "", "`FILE` with options in JSON, such as {\"source\": \"file:/etc/cniblocks/peers.json\"}")
	o.StringVar(&s.network, "network", "pods", "`NAME` of the network, that of the CNI configuration")
	o.StringVar(&s.source, "source", "", "the `SOURCE` of peers: file:PATH, etcd://HOST:PORT,HOST:PORT (etcds:// with TLS), or kubernetes; needed")
	o.StringVar(&s.node, "node", "", "`NAME` of this node; default: the host name, with a file also the peer with an address of this machine")
	o.StringVar(&s.netns, "netns", "", "`PATH` or name of the node's network namespace; default: this one")

	o.Var(&s.nodeIP, "node-ip", "`ADDRESS` that other nodes send to, or one of each family with ',' between them")
	o.Var(&s.iface, "interface", "`REGEX` of the interface whose addresses other nodes send to")
	o.Var(&s.canReach, "can-reach", "`ADDRESS` to which the route leads from the address that other nodes send to; or one of each family")

	names := overlay.Names()
	last := len(names) - 1
	o.StringVar(&s.Encap, "encap", "", fmt.Sprintf("the `WORD` %s or %s; a flannel configuration states it itself", strings.Join(names[:last], ", "), names[last]))
	for key, usage := range overlay.Keys() {
		if usage != "" {
			s.key(o, key, usage)
		}
	}
	o.StringVar(&s.bridge, "bridge", "cni0", "`NAME` of the bridge, with l2")
	o.Var(&s.underlay, "underlay", "the `FAMILY` ipv4 or ipv6: use only that family between nodes")
	o.IntVar(&s.mtu, "mtu", 0, "`BYTES` for pods; default: what the paths allow")
	o.StringVar(&s.device, "device", "", "`NAME` of the tunnel device; default: made of the network's")
	o.Var(&s.table, "table", "`NUMBER` of the routing table; default: main")
	o.Var(&s.metric, "metric", "`NUMBER` from which the metrics of routes count")
	o.Var(&s.podNetwork, "pod-network", "`PREFIXES` of all pods, where the source states none")

	s.ipMasq = families{V4: true, V6: true}
	o.Var(&s.ipMasq, "ip-masq", "true, false, ipv4 or ipv6: masquerade what pods send out of the network; default: true")
	o.StringVar(&s.ipMasqBackend, "ip-masq-backend", "", "the `WORD` nftables or iptables; default: nftables where the kernel has it")
	o.Var(&s.ipMasqExcept, "ip-masq-except", "`PREFIXES` that see the pods' own addresses, with ',' between them")

	o.StringVar(&s.etcdPrefix, "etcd-prefix", "/coreos.com/network", "`KEY` under which etcd has the network")
	o.StringVar(&s.etcdCA, "etcd-cafile", "", "`FILE` with the certificates that etcd's own is signed with")
	o.StringVar(&s.etcdCert, "etcd-certfile", "", "`FILE` with the certificate for etcd")
	o.StringVar(&s.etcdKey, "etcd-keyfile", "", "`FILE` with its key")
	o.StringVar(&s.etcdUser, "etcd-username", "", "`NAME` for etcd")
	o.StringVar(&s.etcdPasswordFile, "etcd-password-file", "", "`FILE` with its password; or CNIBLOCKS_ETCD_PASSWORD in the environment")
	o.StringVar(&s.kubeconfig, "kubeconfig", "", "`FILE` that says where the API server is; default: the pod's service account")
	o.StringVar(&s.netConf, "net-conf", "", "`FILE` with flannel's net-conf.json, for kubernetes")
	o.StringVar(&s.annotations, "kube-annotation-prefix", "", "`PREFIX` of the nodes' annotations; default: "+flannel.AnnotationPrefix)

	o.StringVar(&s.subnetFile, "subnet-file", "", "`FILE` for flannel's subnet.env; default: "+flannel.SubnetEnvPath+" in a flannel network, else none; - is none")
	o.StringVar(&s.conflistFrom, "conflist-from", "", "`FILE` to be put in place for the container runtime when all is ready")
	o.StringVar(&s.conflistTo, "conflist-to", "", "`FILE` that it becomes, such as /etc/cni/net.d/10-cniblocks.conflist")
	o.BoolVar(&s.adopt, "adopt-flannel", false, "take over flannel's devices, routes and cni0, then remove its firewall rules")
	o.StringVar(&s.listen, "listen", "", "loopback `ADDRESS:PORT` for /healthz, /readyz, /metrics, beside the socket agent.sock in the state directory")
	o.StringVar(&s.stateDir, "state-dir", node.DefaultStateDir, "`DIR` for what lasts until the next boot")
	o.StringVar(&s.dataDir, "data-dir", overlay.DefaultKeyDir, "`DIR` for what is kept")
	o.StringVar(&s.leaseDir, "lease-dir", "/var/lib/cni/networks", "`DIR` in which host-local keeps its leases")
	o.StringVar(&s.sysctlDir, "sysctl-dir", "", "`DIR` where the machine's /proc/sys/net can be written, in a container where that is read-only")
	o.DurationVar(&s.resync, "resync", 3*time.Minute, "`TIME` between two looks at everything")
	o.TextVar(&s.logLevel, "log-level", slog.LevelInfo, "the `LEVEL` debug, info, warn or error")
	o.StringVar(&s.logFormat, "log-format", "text", "the `FORM` text or json")
}

// key declares the option of a key of an encapsulation.
func (s *settings) key(o *options, k *overlay.Key, usage string) {
	name := dashed(k.Name)
	switch at := k.Value(&s.Config).(type) {
	case *bool:
		o.BoolVar(at, name, false, usage)
	case *string:
		o.StringVar(at, name, "", usage)
	default:
		b := &bounded{name: name, at: reflect.ValueOf(at).Elem(), most: number(k.Most())}
		s.numbers = append(s.numbers, b)
		o.Var(b, name, usage)
	}
}

// dashed is a key of JSON as an option.
func dashed(key string) string {
	return capital.ReplaceAllStringFunc(key, func(c string) string { return "-" + strings.ToLower(c) })
}

var capital = regexp.MustCompile("[A-Z]")

// secret is the one option that is no flag, since everybody can read those.
const secret = "etcd-password"

// complete fills in what the command line does not state from the environment, and then from the configuration file.
func (s *settings) complete(o *options, env func(string) (string, bool)) error {
	stated := map[string]bool{}
	o.Visit(func(f *flag.Flag) { stated[f.Name] = true })
	var errs []error
	o.VisitAll(func(f *flag.Flag) {
		name := "CNIBLOCKS_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := env(name); ok && !stated[f.Name] {
			stated[f.Name] = true
			if err := f.Value.Set(v); err != nil {
				errs = append(errs, fmt.Errorf("%s is %q: %s", name, v, wanted(f, err.Error())))
			}
		}
	})
	s.etcdPassword, _ = env("CNIBLOCKS_ETCD_PASSWORD")
	if s.config != "" {
		errs = append(errs, s.readFile(o, stated))
	}
	return errors.Join(errs...)
}

func (s *settings) readFile(o *options, stated map[string]bool) error {
	b, err := os.ReadFile(s.config)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("%s: want one JSON object with options as keys: %w", s.config, err)
	}
	for _, key := range slices.Sorted(mapsKeys(all)) {
		v, err := plain(all[key])
		if err != nil {
			return fmt.Errorf("%s: key %q: %w", s.config, key, err)
		}
		if key == secret {
			if s.etcdPassword == "" {
				s.etcdPassword = v
			}
			continue
		}
		f := o.Lookup(key)
		if f == nil || key == "config" {
			return fmt.Errorf("%s: there is no key %q%s", s.config, key, like(o, key))
		}
		if stated[key] {
			continue
		}
		if err := f.Value.Set(v); err != nil {
			return fmt.Errorf("%s: key %q is %q: %s", s.config, key, v, wanted(f, err.Error()))
		}
	}
	return nil
}

func like(o *options, key string) string {
	near, ok := nearest.Of(key, func(yield func(string) bool) {
		stop := false
		o.VisitAll(func(f *flag.Flag) { stop = stop || !yield(f.Name) })
	})
	if !ok {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", near)
}

func mapsKeys(m map[string]json.RawMessage) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// plain is a JSON value as a flag takes it: lists have ',' between their values.
func plain(v json.RawMessage) (string, error) {
	var list []json.RawMessage
	if json.Unmarshal(v, &list) == nil {
		var words []string
		for _, e := range list {
			w, err := plain(e)
			if err != nil {
				return "", err
			}
			words = append(words, w)
		}
		return strings.Join(words, ","), nil
	}
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s, nil
	}
	if bytes.HasPrefix(v, []byte("{")) || string(v) == "null" {
		return "", fmt.Errorf("it is %s: want a string, a number, true, false or a list", v)
	}
	return string(v), nil
}

// number is a flag that fits into 32 bits.
type number uint32

func (n *number) String() string { return strconv.FormatUint(uint64(*n), 10) }

func (n *number) Set(s string) error {
	v, err := strconv.ParseUint(s, 0, 32)
	*n = number(v)
	return err
}

// bounded is a number of less than 32 bits, too. One that is too large is told when all options are read.
type bounded struct {
	name string
	at   reflect.Value
	number
	most number
}

func (b *bounded) Set(s string) error {
	if err := b.number.Set(s); err != nil {
		return err
	}
	b.at.SetUint(uint64(b.number))
	return nil
}

type addrs []netip.Addr

func (a *addrs) String() string { return strings.Trim(fmt.Sprint(*a), "[]") }

func (a *addrs) Set(s string) error {
	*a = nil
	for w := range strings.SplitSeq(s, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(w))
		switch {
		case err != nil:
			return err
		case slices.ContainsFunc(*a, func(b netip.Addr) bool { return b.Is4() == ip.Is4() }) || inet.FamilyOf(ip) == 0:
			return errors.New("want at most one address of each family")
		}
		*a = append(*a, ip)
	}
	return nil
}

type prefixList []netip.Prefix

func (p *prefixList) String() string { return strings.Trim(fmt.Sprint(*p), "[]") }

func (p *prefixList) Set(s string) error {
	*p = nil
	for w := range strings.SplitSeq(s, ",") {
		v, err := netip.ParsePrefix(strings.TrimSpace(w))
		if err != nil {
			return err
		}
		if v != v.Masked() {
			return fmt.Errorf("%s has host bits; want %s", v, v.Masked())
		}
		*p = append(*p, v)
	}
	return nil
}

type expression struct{ *regexp.Regexp }

func (e *expression) String() string {
	if e.Regexp == nil {
		return ""
	}
	return e.Regexp.String()
}

func (e *expression) Set(s string) (err error) {
	if e.Regexp, err = regexp.Compile(s); err != nil {
		return fmt.Errorf("want a regular expression: %w", err)
	}
	e.Longest()
	return nil
}

type family struct{ inet.Family }

func (f *family) String() string {
	if f.Family == 0 {
		return ""
	}
	return f.Family.String()
}

func (f *family) Set(s string) error {
	for _, k := range inet.Families {
		if s == k.String() {
			f.Family = k
			return nil
		}
	}
	return errors.New("want ipv4 or ipv6")
}

type families masq.Families

func (f *families) String() string {
	b, _ := masq.Families(*f).MarshalJSON()
	return strings.Trim(string(b), `"`)
}

func (f *families) Set(s string) error {
	if s == "ipv4" || s == "ipv6" {
		s = strconv.Quote(s)
	}
	if (*masq.Families)(f).UnmarshalJSON([]byte(s)) != nil {
		return errors.New("want true, false, ipv4 or ipv6")
	}
	return nil
}

// IsBoolFlag lets --ip-masq stand alone.
func (f *families) IsBoolFlag() bool { return true }
