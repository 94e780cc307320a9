//go:build linux

package contract_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/inventory/sweep"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/portmap"
	"github.com/cniblocks/cniblocks/route"
	"github.com/cniblocks/cniblocks/shape"
	"github.com/cniblocks/cniblocks/spoof"
	"github.com/cniblocks/cniblocks/sysctl"
	"github.com/cniblocks/cniblocks/veth"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// calls are those of the public packages that take a namespace, as an argument, a receiver or a field.
func calls(t *testing.T, ctx context.Context, ns, good *netns.NS) map[string]func() error {
	var (
		prefix = netip.MustParsePrefix("192.0.2.1/24")
		v6     = netip.MustParsePrefix("2001:db8::1/64")
		ranges = []inet.Range{inet.RangeOf(prefix)}
		pod    = masq.Pod{Owner: "o", Addr: prefix.Addr()}
		policy = masq.Policy{Network: "net", Sources: ranges, Pods: []masq.Pod{pod}}
		fwd    = forward.Passage{NS: ns}
		shaped = shape.Device{Name: "p", Owner: "o"}
		port   = spoof.Port{Name: "p", MAC: [6]byte{2}, Owner: "o"}
		gws    = bridge.Gateways{NS: ns, Index: 1, Name: "br0"}
		table  = route.Table{NS: ns}
		file   = filepath.Join(t.TempDir(), "net", "node.json")
		self   = peer.Peer{Name: "a", Pods: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Reach: peer.Reach{V4: peer.Endpoint{Addr: prefix.Addr()}}}
	)
	require.NoError(t, node.Write(good, file, node.File{Self: self, Network: peer.Network{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}))
	hostPod := portmap.Pod{Owner: "o", Addrs: []netip.Prefix{prefix}, Maps: []portmap.Map{{Proto: portmap.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Pod: netip.AddrPortFrom(prefix.Addr(), 80)}}}
	all := map[string]func() error{
		"attach.OpenRule": func() error { return second(attach.OpenRule(ctx, ns, "", policy)) },
		"attach.HostEnd":  func() error { return second(attach.HostEnd(ctx, &cni.Request{}, ns, good)) },
		"attach.Forget":   func() error { return attach.Forget(ctx, ns, "net", "o") },
		"attach.Shrink":   func() error { return attach.Shrink(ctx, &cni.Request{Network: "net"}, ns, attach.Rule{}, policy) },
		"attach.Pod": func() error {
			p, err := attach.Read(&cni.Request{Verb: cni.CHECK, Network: "net", ContainerID: "c", IfName: "eth0", Config: []byte("{}")}, &attach.Conf{})
			if err != nil {
				return err
			}
			p.Node, p.NS = ns, ns
			return second(p.Find(ctx))
		},
		"bridge.Delete":            func() error { return bridge.Delete(ctx, ns, "br0") },
		"link.Neighbours":          func() error { return second(link.Neighbours(ctx, ns, "lo")) },
		"bridge.EnsureFit":         func() error { return second(bridge.EnsureFit(ctx, ns, bridge.Bridge{Name: "br0"}, nil)) },
		"bridge.InVLAN":            func() error { return second(bridge.InVLAN(ctx, ns, 1, 1)) },
		"bridge.PortMTU":           func() error { return second(bridge.PortMTU(ctx, ns, bridge.State{}, 0)) },
		"addr.Check":               func() error { return addr.Check(ctx, ns, "eth0", prefix) },
		"addr.List":                func() error { return second(addr.List(ctx, ns, "eth0")) },
		"addr.Live":                func() error { return addr.Live(ctx, ns, v6) },
		"addr.Settle":              func() error { return addr.Settle(ctx, ns, 1) },
		"agent.Agent":              func() error { return (&agent.Agent{NS: ns, Network: "net"}).Run(ctx) },
		"bridge.Check":             func() error { return second(bridge.Check(ctx, ns, bridge.Bridge{Name: "br0"})) },
		"bridge.Gateways.Check":    func() error { return gws.Check(ctx, bridge.GatewayAt(prefix)) },
		"bridge.Gateways.Ensure":   func() error { return second(gws.Ensure(ctx, true, bridge.GatewayAt(prefix))) },
		"bridge.Gateways.Fit":      func() error { return gws.Fit(ctx, bridge.GatewayAt(prefix)) },
		"bridge.Gateways.Retire":   func() error { return gws.Retire(ctx) },
		"bridge.Gateways.Withdraw": func() error { return gws.Withdraw(ctx, prefix) },
		"bridge.ListHidden":        func() error { return second(bridge.ListHidden(ctx, ns)) },
		"bridge.SweepARP":          func() error { return bridge.SweepARP(ctx, ns) },
		"bridge.CheckPort":         func() error { return bridge.CheckPort(ctx, ns, 1, bridge.Port{}) },
		"bridge.Ensure":            func() error { return second(bridge.Ensure(ctx, ns, bridge.Bridge{Name: "br0"})) },
		"bridge.Get":               func() error { return second(bridge.Get(ctx, ns, "br0")) },
		"bridge.PinMAC":            func() error { return bridge.PinMAC(ctx, ns, bridge.State{}) },
		"bridge.Widen":             func() error { return bridge.Widen(ctx, ns, bridge.State{Name: "br0", Ours: true}, 1500) },
		"bridge.SetPort":           func() error { return bridge.SetPort(ctx, ns, 1, bridge.Port{}) },
		"bridge.VLANGateway":       func() error { return second(bridge.VLANGateway(ctx, ns, bridge.State{Name: "br0"}, 5, "", false)) },
		"inventory.Options":        func() error { return second(inventory.Read(ctx, inventory.Options{NS: ns})) },
		"sweep.Options":            func() error { return second(sweep.Make(sweep.Options{NS: ns, Found: &inventory.Node{}})) },
		"masq.Conflicts":           func() error { return second(masq.Conflicts(ctx, ns, policy, ranges)) },
		"masq.Ensure":              func() error { return second(masq.Ensure(ctx, ns, "", policy)) },
		"forward.Passage.Blocked":  func() error { return second(fwd.Blocked(ctx)) },
		"forward.Passage.Check":    func() error { return fwd.Check(ctx, "net", ranges) },
		"forward.Passage.Ensure":   func() error { return fwd.Ensure(ctx, "net", ranges) },
		"forward.Passage.Forget":   func() error { return fwd.Forget(ctx, "net", "o") },
		"forward.Passage.Remove":   func() error { return fwd.Remove(ctx, "net") },
		"forward.Passage.Retain":   func() error { return fwd.Retain(ctx, "net", ranges) },
		"masq.NFT.CheckForward":    func() error { return second(masq.NFT{NS: ns}.CheckForward(ctx, policy)) },
		"masq.Open":                func() error { return second(masq.Open(ctx, ns, "")) },
		"masq.Probe":               func() error { return masq.Probe(ctx, ns, "") },
		"masq.RemoveAll":           func() error { return masq.RemoveAll(ctx, ns, "net") },
		"masq.Switch":              func() error { return masq.Switch(ctx, ns, masq.NFT{NS: good}, "net") },
		"netns.NS.Check":           func() error { return ns.Check() },
		"netns.NS.Cookie":          func() error { return second(ns.Cookie()) },
		"netns.NS.Do":              func() error { return ns.Do(func() error { return nil }) },
		"netns.NS.Keep":            func() error { return second(ns.Keep("", nil)) },
		"netns.NS.Lock":            func() error { return second(ns.Lock(ctx)) },
		"netns.NS.Socket":          func() error { return second(ns.Socket(1, 2, 0)) },
		"netns.NS.Visit":           func() error { return ns.Visit(func() error { return nil }) },
		"node.Read":                func() error { return second(node.Read(ns, file)) },
		"node.Write":               func() error { return node.Write(ns, file, node.File{}) },
		"overlay.Options": func() error {
			return second(overlay.New(overlay.Options{NS: ns, Network: "net", Node: self}, overlay.Direct{}))
		},
		"route.CheckForward": func() error { return route.CheckForward(ctx, ns, inet.IPv4) },
		"route.CheckLink":    func() error { return route.CheckLink(ctx, ns, "eth0", route.Route{Dst: prefix.Masked()}) },
		"route.CheckLinks":   func() error { return route.CheckLinks(ctx, ns, []string{"eth0"}, route.Route{Dst: prefix.Masked()}) },
		"link.Apply":         func() error { return link.Apply(ctx, ns, link.Up(1)) },
		"link.At":            func() error { return second(link.At(ctx, ns, 1)) },
		"link.Create":        func() error { return second(link.Create(ctx, ns, link.Spec{Name: "i", Kind: link.IFB{}})) },
		"link.Lower": func() error {
			return second(link.Create(ctx, good, link.Spec{Name: "m", Kind: link.Macvlan{}, Lower: link.Lower{NS: ns, Index: 1}}))
		},
		"link.DeleteAll":          func() error { return link.DeleteAll(ctx, ns, "veth", 5) },
		"link.Remove":             func() error { return link.Remove(ctx, ns, link.Spec{Name: "h", Kind: link.Dummy{}}) },
		"link.Supported":          func() error { return link.Supported(ctx, ns, link.Dummy{}) },
		"route.DefaultLink":       func() error { return second(route.DefaultLink(ctx, ns)) },
		"link.Retain":             func() error { return link.Retain(ctx, ns, "veth", "net") },
		"link.Delete":             func() error { return link.Delete(ctx, ns, "h", "veth") },
		"link.Get":                func() error { return second(link.Get(ctx, ns, "h")) },
		"link.List":               func() error { return second(link.List(ctx, ns, "")) },
		"route.Forward":           func() error { return route.Forward(ctx, ns, inet.IPv4) },
		"route.Table.Check":       func() error { return table.Check(ctx, slices.Values([]route.Route{})) },
		"route.Table.List":        func() error { return second(table.List(ctx)) },
		"route.Table.Reconcile":   func() error { return table.Reconcile(ctx, slices.Values([]route.Route{})) },
		"shape.Check":             func() error { return shape.Check(ctx, ns, shaped, shape.Limits{}) },
		"shape.Ensure":            func() error { return second(shape.Ensure(ctx, ns, shaped, shape.Limits{})) },
		"shape.Get":               func() error { return second(shape.Get(ctx, ns, "p")) },
		"shape.List":              func() error { return second(shape.List(ctx, ns)) },
		"shape.Retain":            func() error { return shape.Retain(ctx, ns, "net/", nil) },
		"shape.Revoke":            func() error { return shape.Revoke(ctx, ns, shaped) },
		"spoof.Allow":             func() error { return spoof.Allow(ctx, ns, port) },
		"spoof.Check":             func() error { return spoof.Check(ctx, ns, port) },
		"spoof.List":              func() error { return second(spoof.List(ctx, ns)) },
		"spoof.Retain":            func() error { return spoof.Retain(ctx, ns, "net/", nil) },
		"spoof.RevokeOf":          func() error { return spoof.RevokeOf(ctx, ns, "o") },
		"spoof.Revoke":            func() error { return spoof.Revoke(ctx, ns, "p") },
		"sysctl.Ensure":           func() error { return sysctl.Ensure(ns, sysctl.Var{Key: "net/ipv4/ip_forward", Value: "1"}) },
		"sysctl.Get":              func() error { return second(sysctl.Get(ns, "net/ipv4/ip_forward")) },
		"veth.HostEnd":            func() error { return second(veth.HostEnd(ctx, ns, good, "lo")) },
		"veth.Delete":             func() error { return veth.Delete(ctx, ns, "h") },
		"veth.DeleteIndex":        func() error { return veth.DeleteIndex(ctx, ns, 5) },
		"portmap.Supported":       func() error { return second(portmap.Supported(ns)) },
		"portmap.Table.Set":       func() error { return portmap.Table{NS: ns}.Set(ctx, hostPod) },
		"portmap.Table.Check":     func() error { return portmap.Table{NS: ns}.Check(ctx, hostPod) },
		"portmap.Table.Remove":    func() error { return portmap.Table{NS: ns}.Remove(ctx, "o") },
		"portmap.Table.Retain":    func() error { return portmap.Table{NS: ns}.Retain(ctx, "o", nil) },
		"portmap.Table.Ready":     func() error { return portmap.Table{NS: ns}.Ready(ctx) },
		"portmap.Table.List":      func() error { return second(portmap.Table{NS: ns}.List(ctx)) },
		"portmap.IPTables.Set":    func() error { return portmap.IPTables{NS: ns}.Set(ctx, hostPod) },
		"portmap.IPTables.Check":  func() error { return portmap.IPTables{NS: ns}.Check(ctx, hostPod) },
		"portmap.IPTables.Remove": func() error { return portmap.IPTables{NS: ns}.Remove(ctx, "o") },
		"portmap.IPTables.Retain": func() error { return portmap.IPTables{NS: ns}.Retain(ctx, "o", nil) },
		"portmap.IPTables.Ready":  func() error { return portmap.IPTables{NS: ns}.Ready(ctx) },
		"portmap.IPTables.List":   func() error { return second(portmap.IPTables{NS: ns}.List(ctx)) },
		"portmap.Table.Localnet":  func() error { return second(portmap.Table{NS: ns}.Localnet(ctx)) },
	}
	for name, f := range map[string]func(veth.Pair) error{
		"veth.Check":    func(p veth.Pair) error { return second(veth.Check(ctx, p)) },
		"veth.Create":   func(p veth.Pair) error { return second(veth.Create(ctx, p)) },
		"veth.CreateOn": func(p veth.Pair) error { return second(veth.CreateOn(ctx, p, 0)) },
	} {
		all["veth.End, host, "+name] = func() error {
			return f(veth.Pair{Host: veth.End{NS: ns, Name: "h"}, Pod: veth.End{NS: good, Name: "lo"}})
		}
		all["veth.End, pod, "+name] = func() error {
			return f(veth.Pair{Host: veth.End{NS: good, Name: "lo"}, Pod: veth.End{NS: ns, Name: "p"}})
		}
	}
	for typ, b := range map[string]masq.Backend{"masq.NFT.": masq.NFT{NS: ns}, "masq.IPTables.": masq.IPTables{NS: ns}} {
		maps.Copy(all, map[string]func() error{
			typ + "Check": func() error { return b.Check(ctx, policy) }, typ + "Ensure": func() error { return b.Ensure(ctx, policy) },
			typ + "Forget": func() error { return b.Forget(ctx, "net", "o") }, typ + "List": func() error { return second(b.List(ctx)) },
			typ + "Remove": func() error { return b.Remove(ctx, "net") }, typ + "Retain": func() error { return b.Retain(ctx, policy, nil) },
		})
	}
	return all
}

func second[T any](_ T, err error) error { return err }

func TestANamespaceThatIsMissingIsAnErrorInAllPublicPackages(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	good := nstest.New(t)
	for _, ns := range []*netns.NS{nil, {}} {
		nstest.Settle(t, good)
		before := nstest.Dump(good)
		for name, call := range calls(t, t.Context(), ns, good) {
			err := call()
			require.ErrorIs(t, err, fs.ErrInvalid, name)
			require.ErrorContains(t, err, "no network namespace is given", name)
		}
		require.Equal(t, before, nstest.Dump(good))
		require.Equal(t, -1, ns.Fd())
		require.Empty(t, ns.Path())
		require.False(t, ns.Here())
		require.False(t, ns.Same(ns) || ns.Same(good) || good.Same(ns))
		require.NoError(t, ns.Share().Close())
	}
}

// told are those that say in their comment what no namespace means, and return no error.
var told = []string{"netns.NS.Close", "netns.NS.Fd", "netns.NS.Here", "netns.NS.Path", "netns.NS.Same", "netns.NS.Share",
	"cni.Request.Lend", "masq.NFT.Name", "masq.IPTables.Name"}

func TestTheTestAboveHasEveryCallThatTakesANamespace(t *testing.T) {
	t.Parallel()
	names := append([]string{}, told...)
	for name := range calls(t, t.Context(), nil, nstest.New(t)) {
		names = append(names, name)
	}
	found := takers(t, "../..")
	require.Greater(t, len(found), 60)
	for _, taker := range found {
		require.True(t, slices.ContainsFunc(names, func(n string) bool { return n == taker || strings.HasPrefix(n, taker+",") }),
			"%s takes a namespace: call it with none", taker)
	}
}

// takers are the exported functions that take a namespace, the exported methods of types that have one in an exported
// field, and such types without methods that take nothing but one: package.Function, package.Type.Method, package.Type.
func takers(t *testing.T, root string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	for _, e := range entries {
		if e.IsDir() && !slices.Contains([]string{"cmd", "examples", "internal", "plugins", "test"}, e.Name()) {
			found = append(found, takersOf(t, filepath.Join(root, e.Name()))...)
		}
	}
	return found
}

func takersOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var parsed []*ast.File
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, "_other.go") {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			require.NoError(t, err)
			parsed = append(parsed, f)
		}
	}
	holders := map[string]bool{} // types with a namespace, and whether their methods are found by themselves
	if filepath.Base(dir) == "netns" {
		holders["NS"] = true
	}
	for _, f := range parsed {
		ast.Inspect(f, func(n ast.Node) bool {
			if ts, ok := n.(*ast.TypeSpec); ok && ts.Name.IsExported() {
				if st, ok := ts.Type.(*ast.StructType); ok && hasNS(st.Fields, true) {
					// What makes the object checks for its methods.
					holders[ts.Name.Name] = !slices.Contains([]string{"Options", "Agent", "Pod"}, ts.Name.Name)
				}
			}
			return true
		})
	}
	pkg := filepath.Base(dir) + "."
	methods := map[string]bool{}
	for _, f := range parsed {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !fn.Name.IsExported() {
				continue
			}
			if fn.Recv == nil {
				if hasNS(fn.Type.Params, false) {
					found = append(found, pkg+fn.Name.Name)
				}
				continue
			}
			typ := receiver(fn.Recv.List[0].Type)
			methods[typ] = methods[typ] || holders[typ]
			if ast.IsExported(typ) && (holders[typ] || hasNS(fn.Type.Params, false)) {
				found = append(found, pkg+typ+"."+fn.Name.Name)
			}
		}
	}
	for typ := range holders {
		if !methods[typ] {
			found = append(found, pkg+typ)
		}
	}
	return found
}

func receiver(e ast.Expr) string {
	if s, ok := e.(*ast.StarExpr); ok {
		e = s.X
	}
	switch e := e.(type) {
	case *ast.IndexExpr: // of a generic type
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func hasNS(fields *ast.FieldList, exported bool) bool {
	return slices.ContainsFunc(fields.List, func(f *ast.Field) bool {
		if exported && !slices.ContainsFunc(f.Names, (*ast.Ident).IsExported) {
			return false
		}
		star, ok := f.Type.(*ast.StarExpr)
		if !ok {
			return false
		}
		sel, ok := star.X.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := sel.X.(*ast.Ident)
		return ok && x.Name == "netns" && sel.Sel.Name == "NS"
	})
}
