package peer_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

var update = flag.Bool("update", false, "write the golden files")

// twoPeers is the document of the documentation.
const twoPeers = `{ "network": ["10.244.0.0/16", "fd00:10:244::/48"],
  "peers": [ { "name": "a", "endpoint": ["192.0.2.11", "2001:db8::11"], "pods": ["10.244.1.0/24", "fd00:10:244:1::/64"] },
             { "name": "b", "endpoint": ["192.0.2.12", "2001:db8::12"], "pods": ["10.244.2.0/24", "fd00:10:244:2::/64"] } ] }`

func parse(t testing.TB, doc string) peer.Network {
	t.Helper()
	n, problems, err := peer.Parse([]byte(doc))
	require.NoError(t, err)
	require.NoError(t, problems.Err())
	return n
}

func one(t testing.TB, keys string) peer.Peer {
	t.Helper()
	n := parse(t, `{ "peers": [ { "name": "a", "pods": "10.244.1.0/24", `+keys+` } ] }`)
	require.Len(t, n.Peers, 1)
	return n.Peers[0]
}

func TestADocumentIsRead(t *testing.T) {
	t.Parallel()
	n := parse(t, twoPeers)
	require.Equal(t, prefixes("10.244.0.0/16", "fd00:10:244::/48"), n.Prefixes)
	require.Equal(t, "a b", names(n.Peers))
	b := n.Peers[1]
	require.Equal(t, prefixes("10.244.2.0/24", "fd00:10:244:2::/64"), b.Pods)
	require.Equal(t, peer.Reach{V4: peer.Endpoint{Addr: addr("192.0.2.12")}, V6: peer.Endpoint{Addr: addr("2001:db8::12")}}, b.Reach)
}

func TestAValueWithoutAFamilyIsForAllEndpoints(t *testing.T) {
	t.Parallel()
	want := full(t)
	const rest = `, "mac": "0a:58:0a:f4:01:02", "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "port": 4789, "vni": 7, "encap": "vxlan"`
	require.Equal(t, want.Reach, one(t, `"endpoint": ["192.0.2.11", "2001:db8::11"]`+rest).Reach)
	require.Equal(t, want.Reach, one(t, `"endpoint": ["2001:db8::11", "192.0.2.11"]`+rest).Reach)
	require.Equal(t, peer.Reach{Encap: "vxlan", V4: want.V4}, one(t, `"endpoint": "192.0.2.11"`+rest).Reach)
	require.Equal(t, peer.Reach{Encap: "vxlan", V6: want.V6}, one(t, `"endpoint": ["2001:db8::11"]`+rest).Reach)
	want.V4.Addr, want.V6.Addr = peer.Endpoint{}.Addr, peer.Endpoint{}.Addr
	require.Equal(t, want.Reach, one(t, rest[1:]).Reach, "without endpoints it is for both")
}

func TestAValueMayDifferByFamily(t *testing.T) {
	t.Parallel()
	got := one(t, `"port": { "ipv6": 2, "ipv4": 1 }, "vni": { "ipv6": 3 }, "mac": { "ipv4": "02:00:00:00:00:01", "ipv6": null },
		"endpoint": ["192.0.2.11", "2001:db8::11"]`)
	require.Equal(t, peer.Reach{
		V4: peer.Endpoint{Addr: addr("192.0.2.11"), MAC: inet.MAC{2, 5: 1}, Port: 1},
		V6: peer.Endpoint{Addr: addr("2001:db8::11"), Port: 2, VNI: 3},
	}, got.Reach)
	alone := one(t, `"endpoint": "192.0.2.11", "vni": { "ipv6": 3 }`)
	require.EqualValues(t, 3, alone.V6.VNI, "for an endpoint that is to come")
	require.False(t, alone.V6.Addr.IsValid())
}

func TestJSONIsReadInAnyDress(t *testing.T) {
	t.Parallel()
	want := parse(t, twoPeers)
	var compact, indented bytes.Buffer
	require.NoError(t, json.Compact(&compact, []byte(twoPeers)))
	require.NoError(t, json.Indent(&indented, []byte(twoPeers), "", "\t"))
	for what, doc := range map[string]string{
		"compact":                compact.String(),
		"indented":               indented.String(),
		"with carriage returns":  strings.ReplaceAll(indented.String(), "\n", "\r\n"),
		"with a byte order mark": "\ufeff" + twoPeers,
		"with space around":      "\n\n\t " + twoPeers + " \r\n",
		"peers before network":   `{ "peers": ` + twoPeers[strings.Index(twoPeers, "[ {"):strings.LastIndex(twoPeers, "}")] + `, "network": ["10.244.0.0/16", "fd00:10:244::/48"] }`,
		"escaped":                strings.NewReplacer(`"name"`, `"\u006eame"`, `"a"`, `"\u0061"`, `/24`, `\/24`, `"peers"`, `"p\u0065ers"`).Replace(twoPeers),
	} {
		got := parse(t, doc)
		require.Equal(t, want, got, what)
	}
	named := parse(t, `{"peers":[{"name":"knöten-\"1\"\\","endpoint":"192.0.2.1","pods":"10.0.0.0/24"}]}`)
	require.Equal(t, `knöten-"1"\`, named.Peers[0].Name)
}

func TestNoPeersAreSaidWithAnEmptyList(t *testing.T) {
	t.Parallel()
	n := parse(t, `{"peers":[]}`)
	require.NotNil(t, n.Peers)
	require.Empty(t, n.Peers)
}

func TestAnUnusableDocumentIsAnErrorAsAWhole(t *testing.T) {
	t.Parallel()
	const list = `: write a list; one without peers is []`
	for doc, want := range map[string]string{
		"":                      `the document is empty: want { "network": [ ... ], "peers": [ ... ] }`,
		" \n":                   `the document is empty: want { "network": [ ... ], "peers": [ ... ] }`,
		"{\n  \"peers\": [\n":   `the document is not JSON at line 3, column 0: unexpected end of JSON input`,
		"{ \"peers\": [] ]":     `the document is not JSON at line 1, column 15: invalid character ']' after object key:value pair`,
		"{\n \"peers\": [],\n}": "the document is not JSON at line 3, column 1: invalid character '}' looking for beginning of object key string",
		`{"peers":[]}{}`:        `the document is not JSON at line 1, column 13: invalid character '{' after top-level value`,
		"null":                  `the document is null: want { "network": [ ... ], "peers": [ ... ] }`,
		"[]":                    `the document is a list: want { "network": [ ... ], "peers": [ ... ] }`,
		`"x"`:                   `the document is a string: want { "network": [ ... ], "peers": [ ... ] }`,
		"7":                     `the document is a number: want { "network": [ ... ], "peers": [ ... ] }`,
		"true":                  `the document is a boolean: want { "network": [ ... ], "peers": [ ... ] }`,
		"{}":                    `peers is missing` + list,
		`{"peers":null}`:        `peers is missing` + list,
		`{"peers":{"a":{}}}`:    `peers is an object` + list,
		`{"peers":"a"}`:         `peers is a string` + list,
		`{"Peers":[]}`:          `peers is missing` + list + "\n" + `key "Peers" is unknown: did you mean "peers"?`,
		`{"peers":[],"peers":[],"network":7,"network":"x"}`: "peers is there twice: join them\nnetwork is there twice: join them\n" +
			`network 7 is a number, not a string: write a range such as "10.244.1.0/24"`,
		`{"peers":[],"network":"10.244.0.0"}`: `network "10.244.0.0" is an address, not a range: write its length too; that of this address alone is 10.244.0.0/32`,
		`{"peers":[],"network":["10.244.0.0/16","x",null]}`: `network "x" is not a range: write an address and a length, such as "10.244.1.0/24"` + "\n" +
			`network null is null, not a string: write a range such as "10.244.1.0/24"`,
		`{"peers":[],"network":["10.244.0.1/16"]}`:                   `network 10.244.0.1/16 has bits set beyond its length of 16: write 10.244.0.0/16`,
		`{"peers":[` + strings.Repeat("{},", peer.MaxPeers) + `{}]}`: `peers has more than 65536 entries: split the network`,
		strings.Repeat(" ", peer.MaxSize+1):                          `the document has 67108865 bytes, more than 67108864: split the network`,
	} {
		n, _, err := peer.Parse([]byte(doc))
		require.EqualError(t, err, want, "%.60q", doc)
		require.Zero(t, n)
	}
}

func TestEveryProblemOfADocumentIsTold(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("testdata/problems.json")
	require.NoError(t, err)
	n, problems, err := peer.Parse(doc)
	require.NoError(t, err)
	require.Equal(t, "a", names(n.Peers), "one bad peer costs no other one")
	bad, warnings := problems.Split()
	require.Equal(t, len(problems), len(bad)+len(warnings))
	require.Len(t, warnings, 4)
	golden(t, "testdata/problems.txt", problems.Error()+"\n")
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestLongValuesAreCutInErrors(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`"` + strings.Repeat("ä", 1000) + `"`, `"` + strings.Repeat(`\n`, 1000) + `"`, "[" + strings.Repeat("1, ", 1000) + "1]"} {
		_, problems, err := peer.Parse([]byte(`{"peers":[{"name":` + value + `,"endpoint":` + value + `,"pods":` + value + `,"mac":` + value + `,` + strings.ReplaceAll(value, "[", `"[`) + `":1}]}`))
		if err != nil {
			_, problems, err = peer.Parse([]byte(`{"peers":[{"name":` + value + `,"mac":` + value + `}]}`))
		}
		require.NoError(t, err)
		require.NotEmpty(t, problems)
		for _, p := range problems {
			require.Less(t, len(p.Error()), 600, "%s", p)
		}
	}
}

func TestAKeyThatNobodyKnowsIsAWarningThatNamesTheNearest(t *testing.T) {
	t.Parallel()
	n, problems, err := peer.Parse([]byte(`{"peer":1,"peers":[{"name":"a","endpoint":"192.0.2.1","pods":"10.0.0.0/24","public_key":"x","zzz":[{"a":"]"}],"mac":{"ip6":"x"}}]}`))
	require.NoError(t, err)
	require.Equal(t, "a", names(n.Peers))
	bad, warnings := problems.Split()
	require.Empty(t, bad)
	require.EqualError(t, warnings, `key "peer" is unknown: did you mean "peers"?
peer "a": key "public_key" is unknown: did you mean "publicKey"?
peer "a": key "zzz" is unknown: remove it, or write one of "name", "endpoint", "pods", "mac", "publicKey", "port", "vni", "encap"
peer "a": key "mac.ip6" is unknown: did you mean "mac.ipv6"?`)
}

func TestPartsOfADocumentMayStandElsewhere(t *testing.T) {
	t.Parallel()
	var parts struct{ Network, Peers json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(twoPeers), &parts))
	n, problems, err := peer.Decode(parts.Network, parts.Peers)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, parse(t, twoPeers), n)

	n, _, err = peer.Decode(nil, parts.Peers)
	require.NoError(t, err)
	require.Empty(t, n.Prefixes)
	require.Len(t, n.Peers, 2)

	for _, c := range []struct{ network, peers, want string }{
		{"", "", "peers is missing: write a list; one without peers is []"},
		{"[", "[]", "network: the document is not JSON at line 1, column 1: unexpected end of JSON input"},
		{"[]", "[x", "peers: the document is not JSON at line 1, column 2: invalid character 'x' looking for beginning of value"},
		{strings.Repeat(" ", peer.MaxSize), "[]", "network and peers have 67108866 bytes, more than 67108864: split the network"},
	} {
		n, _, err := peer.Decode(json.RawMessage(c.network), json.RawMessage(c.peers))
		require.EqualError(t, err, c.want)
		require.Zero(t, n)
	}
}

func TestWhatIsWrittenIsReadBackAsItWas(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		n, _, err := crowd(rand.New(rand.NewPCG(seed, 8)), 40).Sift()
		require.NoError(t, err)
		for i := range n.Peers { // all ways to have a value for a family or not
			p, rng := &n.Peers[i], rand.New(rand.NewPCG(seed, uint64(i)))
			for _, e := range []*peer.Endpoint{&p.V4, &p.V6} {
				if rng.IntN(2) == 0 {
					e.VNI = 1 + uint32(rng.IntN(2))
				}
				if rng.IntN(2) == 0 {
					e.PublicKey = peer.PublicKey{byte(rng.Uint32()), byte(rng.Uint32()), byte(i)}
				}
			}
			p.Encap = []string{"", "vxlan", "wire\"guard"}[rng.IntN(3)]
		}
		n, _, err = n.Sift()
		require.NoError(t, err)
		doc := peer.Format(n)
		got := parse(t, string(doc))
		require.Equal(t, n.Prefixes, got.Prefixes)
		require.True(t, slices.EqualFunc(n.Peers, got.Peers, peer.Peer.Equal), "seed %d:\n%s", seed, doc)
		require.Equal(t, string(doc), string(peer.Format(got)))

		j, err := json.Marshal(n)
		require.NoError(t, err)
		var again peer.Network
		require.NoError(t, json.Unmarshal(j, &again))
		require.Equal(t, got, again)
		for _, p := range n.Peers {
			j, err := json.Marshal(p)
			require.NoError(t, err)
			var q peer.Peer
			require.NoError(t, json.Unmarshal(j, &q))
			require.True(t, p.Equal(q), "%s", j)
		}
	}
}

func TestADocumentIsWrittenForPeopleToRead(t *testing.T) {
	t.Parallel()
	require.Equal(t, `{ "network": ["10.244.0.0/16", "fd00:10:244::/48"],
  "peers": [
    { "name": "a", "endpoint": ["192.0.2.11", "2001:db8::11"], "pods": ["10.244.1.0/24", "fd00:10:244:1::/64"] },
    { "name": "b", "endpoint": ["192.0.2.12", "2001:db8::12"], "pods": ["10.244.2.0/24", "fd00:10:244:2::/64"] } ] }
`, string(peer.Format(parse(t, twoPeers))))
	require.Equal(t, "{ \"peers\": [ ] }\n", string(peer.Format(peer.Network{})))

	p := one(t, `"endpoint": ["2001:db8::11", "192.0.2.11"], "vni": 7, "port": { "ipv4": 1, "ipv6": 2 }, "mac": { "ipv6": "02:00:00:00:00:01" }`)
	j, err := p.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, `{ "name": "a", "endpoint": ["192.0.2.11", "2001:db8::11"], "pods": "10.244.1.0/24", `+
		`"mac": { "ipv6": "02:00:00:00:00:01" }, "port": { "ipv4": 1, "ipv6": 2 }, "vni": 7 }`, string(j))
}

func TestDecodingIntoAValueIsStrict(t *testing.T) {
	t.Parallel()
	before := parse(t, twoPeers)
	n := before
	err := json.Unmarshal([]byte(`{"x":1,"peers":[{"name":"a","endpoint":"192.0.2.1","pods":"10.0.0.0/24"},{"name":"b","endpoint":"192.0.2.1","pods":"10.1.0.0/24"}]}`), &n)
	require.EqualError(t, err, `peer "b": endpoint 192.0.2.1 is also that of peer "a": give every peer an address of its own`)
	require.Equal(t, before, n, "left as it was")
	require.NoError(t, json.Unmarshal([]byte(`{"x":1,"peers":[]}`), &n))
	require.Empty(t, n.Peers)

	p := before.Peers[0]
	for doc, want := range map[string]string{
		`{"name":"b","port":0}`: `peer "b": port 0 is not a UDP port: write a number from 1 to 65535 without quotes`,
		`{"pods":["x"]}`:        `peer: pods "x" is not a range: write an address and a length, such as "10.244.1.0/24"`,
		`7`:                     `peer: value 7 is a number, not an object: write { "name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24" }`,
	} {
		require.EqualError(t, json.Unmarshal([]byte(doc), &p), want)
		require.True(t, before.Peers[0].Equal(p), "left as it was")
	}
	require.Error(t, p.UnmarshalJSON([]byte("{")))
	require.NoError(t, json.Unmarshal([]byte(`{"name":"x","colour":"red"}`), &p))
	require.True(t, p.Equal(peer.Peer{Name: "x"}))

	var peers []peer.Peer
	require.NoError(t, json.Unmarshal([]byte(`[{"name":"x"},{"name":"y"}]`), &peers))
	require.Equal(t, "x y", names(peers))
}

func TestTenThousandPeersAreRead(t *testing.T) {
	t.Parallel()
	want := nodes(10_000)
	got := parse(t, string(peer.Format(want)))
	require.True(t, slices.EqualFunc(want.Peers, got.Peers, peer.Peer.Equal))
	require.Equal(t, peer.Digest(want.Peers), peer.Digest(got.Peers))
}

func TestNumbersAreTakenAsTheyStand(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1", "65535"} {
		require.Equal(t, s, fmt.Sprint(one(t, `"endpoint": "192.0.2.1", "port": `+s).V4.Port))
	}
	for _, s := range []string{"0", "65536", "-1", "1.0", "1e3", `"1"`, "true", "[1]", "99999999999999999999"} {
		_, problems, err := peer.Parse([]byte(`{"peers":[{"name":"a","endpoint":"192.0.2.1","pods":"10.0.0.0/24","port":` + s + `}]}`))
		require.NoError(t, err)
		require.Len(t, problems, 1, s)
		require.Equal(t, "port", problems[0].Key)
	}
}
