package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/base/nearest"
)

// MaxSize is the most bytes that a peers document may have.
const MaxSize = 64 << 20

const shape = `{ "network": [ ... ], "peers": [ ... ] }`

// The keys of a peer, and where decodePeer keeps their values.
const (
	keyName = iota
	keyEndpoint
	keyPods
	keyMAC
	keyPublicKey
	keyPort
	keyVNI
	keyEncap
)

const wholeValue = "value" // the key of what is no peer at all

var (
	peerKeys     = [...]string{"name", "endpoint", "pods", "mac", "publicKey", "port", "vni", "encap"}
	documentKeys = [...]string{"network", "peers"}
	familyKeys   = [...]string{inet.IPv4.String(), inet.IPv6.String()}
)

// Parse reads a peers document:
//
//	{ "network": ["10.244.0.0/16"],
//	  "peers": [ { "name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24" } ] }
//
// Of a peer, "name", "endpoint" and "pods" are required, the latter two as a string or a list of strings, an endpoint at
// most one per family. Optional are "mac", "publicKey", "port", "vni", each a value for all families of the peer's
// endpoints or an object with a value under "ipv4", under "ipv6" or both, and "encap". "network" may be left out.
//
// It returns the good peers and the problems of the others, as [Network.Sift] does; a key that nobody knows is a warning
// among them. The error says that the document as a whole is unusable, and all that is wrong with it: it is too large,
// no JSON, has no "peers" (which is not the same as an empty list), or its "network" is wrong. The Network is empty then.
func Parse(data []byte) (Network, Problems, error) {
	if len(data) > MaxSize {
		return Network{}, nil, fmt.Errorf("the document has %d bytes, more than %d: split the network", len(data), MaxSize)
	}
	doc, err := valid(data)
	if err != nil {
		return Network{}, nil, err
	}
	if doc[0] != '{' {
		return Network{}, nil, fmt.Errorf("the document is %s: want %s", lazyjson.Kind(doc), shape)
	}
	var values [2][]byte
	var warnings, wrong Problems
	for key, v := range lazyjson.Members(doc) {
		switch i := lazyjson.Index(documentKeys[:], key); {
		case i < 0:
			warnings = append(warnings, unknown("", lazyjson.Unquote(key), documentKeys[:]))
		case values[i] != nil:
			wrong = append(wrong, problem(documentKeys[i], "", "is there twice", "join them"))
		default:
			values[i] = v
		}
	}
	n, problems, err := decode(values[0], values[1])
	if err = errors.Join(wrong.Err(), err); err != nil {
		return Network{}, problems, errors.Join(err, warnings.Err())
	}
	return n, append(warnings, problems...), nil
}

// Decode is [Parse] for a document whose parts stand elsewhere: network and peers are the values of these keys, nil if
// there is no such key.
func Decode(network, peers json.RawMessage) (Network, Problems, error) {
	if len(network)+len(peers) > MaxSize {
		return Network{}, nil, fmt.Errorf("network and peers have %d bytes, more than %d: split the network", len(network)+len(peers), MaxSize)
	}
	values := [2][]byte{network, peers}
	for i, v := range values {
		if len(v) == 0 {
			values[i] = nil
			continue
		}
		var err error
		if values[i], err = valid(v); err != nil {
			return Network{}, nil, fmt.Errorf("%s: %w", documentKeys[i], err)
		}
	}
	return decode(values[0], values[1])
}

func decode(network, peers []byte) (Network, Problems, error) {
	var wrong Problems
	var prefixes []netip.Prefix
	for v := range oneOrMore(network) {
		p, w := parsePrefix("network", v)
		if w != nil {
			wrong = append(wrong, w)
			continue
		}
		prefixes = append(prefixes, p)
	}
	if absent(peers) || peers[0] != '[' {
		what := "is missing"
		if !absent(peers) {
			what = "is " + lazyjson.Kind(peers)
		}
		wrong = append(wrong, problem("peers", "", what, "write a list; one without peers is []"))
		return Network{}, nil, wrong
	}
	entries := make([]entry, 0, min(len(peers)/128, MaxPeers)) // a guess
	for v := range lazyjson.Elements(peers) {
		if len(entries) <= MaxPeers {
			entries = append(entries, decodePeer(v))
		}
	}
	if wrong != nil {
		prefixes = nil
	}
	n, problems, err := sift(prefixes, entries)
	if err = errors.Join(wrong.Err(), err); err != nil {
		return Network{}, problems, err
	}
	return n, problems, nil
}

// decodePeer reads one peer as far as it can be read.
func decodePeer(v []byte) (e entry) {
	if v[0] != '{' {
		e.problems = Problems{problem(wholeValue, show(v), "is "+lazyjson.Kind(v)+", not an object",
			`write { "name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24" }`)}
		return e
	}
	var values [len(peerKeys)][]byte
	for key, v := range lazyjson.Members(v) {
		i := lazyjson.Index(peerKeys[:], key)
		switch {
		case i < 0:
			e.add(unknown("", lazyjson.Unquote(key), peerKeys[:]))
		case values[i] != nil:
			e.add(problem(peerKeys[i], show(v), "is there a second time", "state one of them"))
		default:
			values[i] = v
		}
	}
	e.Name = e.text("name", values[keyName])
	e.endpoints(values[keyEndpoint])
	e.Pods = make([]netip.Prefix, 0, len(inet.Families)) // one of each, mostly
	for v := range oneOrMore(values[keyPods]) {
		p, w := parsePrefix("pods", v)
		if w == nil {
			e.Pods = append(e.Pods, p)
		}
		e.add(w)
	}
	e.perFamily("mac", values[keyMAC], (*Endpoint).mac)
	e.perFamily("publicKey", values[keyPublicKey], (*Endpoint).publicKey)
	e.perFamily("port", values[keyPort], (*Endpoint).port)
	e.perFamily("vni", values[keyVNI], (*Endpoint).vni)
	e.Encap = e.text("encap", values[keyEncap])
	return e
}

func (e *entry) add(p *Problem) {
	if p != nil {
		e.problems = append(e.problems, p)
	}
}

func (e *entry) text(key string, v []byte) string {
	if absent(v) {
		return ""
	}
	if v[0] != '"' {
		e.add(problem(key, show(v), "is "+lazyjson.Kind(v)+", not a string", "write it in quotes"))
		return ""
	}
	return lazyjson.Unquote(v)
}

func (e *entry) endpoints(v []byte) {
	for v := range oneOrMore(v) {
		a, w := parseEndpoint(v)
		if w != nil {
			e.add(w)
			continue
		}
		f := inet.FamilyOf(a.Unmap())
		if first := e.Endpoint(f).Addr; first.IsValid() {
			e.add(problem("endpoint", a.String(), fmt.Sprintf("is the second of %s beside %s", f, first), "state at most one for each family"))
			continue
		}
		e.endpoint(f).Addr = a
	}
}

// perFamily reads a value that stands for every family of the endpoints, or an object that has it for each.
func (e *entry) perFamily(key string, v []byte, set func(*Endpoint, []byte) (wrong, remedy string)) {
	if absent(v) {
		return
	}
	one := func(key string, f inet.Family, v []byte) {
		if wrong, remedy := set(e.endpoint(f), v); wrong != "" {
			e.add(problem(key, show(v), wrong, "%s", remedy))
		}
	}
	if v[0] != '{' {
		n := len(e.problems)
		for _, f := range e.families() {
			if len(e.problems) == n { // once is enough
				one(key, f, v)
			}
		}
		return
	}
	var seen [2]bool
	for k, v := range lazyjson.Members(v) {
		i := lazyjson.Index(familyKeys[:], k)
		switch {
		case i < 0:
			e.add(unknown(key+".", lazyjson.Unquote(k), familyKeys[:]))
		case seen[i]:
			e.add(problem(key+"."+familyKeys[i], show(v), "is there a second time", "state one of them"))
		default:
			seen[i] = true
			if !absent(v) {
				one(key+"."+familyKeys[i], inet.Families[i], v)
			}
		}
	}
}

// families are those that a value without a family is for: of the endpoints, or both if there are none.
func (r Reach) families() []inet.Family {
	switch v4, v6 := r.V4.Addr.IsValid(), r.V6.Addr.IsValid(); {
	case v4 && !v6:
		return inet.Families[:1]
	case v6 && !v4:
		return inet.Families[1:]
	}
	return inet.Families[:]
}

func (e *Endpoint) mac(v []byte) (wrong, remedy string) {
	if v[0] != '"' {
		return "is " + lazyjson.Kind(v) + ", not a string", "write six octets such as \"0a:58:0a:f4:01:02\""
	}
	e.MAC, wrong, remedy = parseMAC(lazyjson.Unquote(v))
	return wrong, remedy
}

func (e *Endpoint) publicKey(v []byte) (wrong, remedy string) {
	if v[0] != '"' {
		return "is " + lazyjson.Kind(v) + ", not a string", "write the key as \"wg pubkey\" prints it, in quotes"
	}
	e.PublicKey, wrong, remedy = parsePublicKey(lazyjson.Unquote(v))
	return wrong, remedy
}

func (e *Endpoint) port(v []byte) (wrong, remedy string) {
	n, err := strconv.ParseUint(string(v), 10, 16)
	if err != nil || n == 0 {
		return "is not a UDP port", "write a number from 1 to 65535 without quotes"
	}
	e.Port = uint16(n)
	return "", ""
}

func (e *Endpoint) vni(v []byte) (wrong, remedy string) {
	n, err := strconv.ParseUint(string(v), 10, 24)
	if err != nil || n == 0 {
		return "is not a tunnel id", fmt.Sprintf("write a number from 1 to %d without quotes", MaxVNI)
	}
	e.VNI = uint32(n)
	return "", ""
}

// valid is the document by itself, or an error that tells where it is no JSON.
func valid(data []byte) ([]byte, error) {
	doc, err := lazyjson.Document(data)
	if errors.Is(err, lazyjson.ErrEmpty) {
		err = fmt.Errorf("%w: want %s", err, shape)
	}
	if err != nil {
		return nil, fmt.Errorf("the document is %w", err)
	}
	return doc, nil
}

// show is a value in an error.
func show(v []byte) string {
	if v[0] == '"' {
		return quote(lazyjson.Unquote(v))
	}
	return cut(strings.Join(strings.Fields(string(v)), " "))
}

func unknown(in, key string, known []string) *Problem {
	p := problem("key", quote(in+key), "is unknown", "remove it, or write one of %s", list(known, strconv.Quote))
	if near, ok := nearest.Of(key, slices.Values(known)); ok {
		p.Remedy = fmt.Sprintf("did you mean %q?", in+near)
	}
	p.Warning = true
	return p
}

func absent(v []byte) bool { return v == nil || v[0] == 'n' }
