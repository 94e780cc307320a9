package lazyjson

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// spaced writes itself with space, and by its address only.
type spaced struct{ A int }

func (s *spaced) MarshalJSON() ([]byte, error) {
	return json.MarshalIndent(map[string]any{"a": s.A, "b": "<&> \u2028"}, "", " ")
}

type failing struct{}

func (failing) MarshalJSON() ([]byte, error) { return nil, errors.New("no form") }

// never is zero whatever it holds.
type never struct{ N int }

func (never) IsZero() bool { return true }

type written struct {
	Name   string                       `json:"name"`
	Empty  string                       `json:"empty,omitempty"`
	Flag   *bool                        `json:"flag,omitempty"`
	Bytes  []byte                       `json:"bytes"`
	Raw    json.RawMessage              `json:"raw"`
	Any    any                          `json:"any,omitempty"`
	Map    map[string]int               `json:"map,omitempty"`
	Object Object                       `json:"object"`
	Named  map[netip.Addr]string        `json:"named,omitempty"`
	List   [][]netip.Prefix             `json:"list"`
	Addr   netip.Addr                   `json:"addr,omitzero"`
	Time   time.Time                    `json:"time,omitzero"`
	Never  never                        `json:"never,omitzero"`
	Self   []spaced                     `json:"self,omitempty"`
	Far    *written                     `json:"far,omitempty"`
	Struct struct{ X, Y int8 }          `json:"struct,omitempty"`
	Array  [2]int                       `json:"array"`
	Number int                          `json:"number"`
	Big    uint64                       `json:"big,omitempty"`
	Real   float64                      `json:"real,omitzero"`
	Quoted int                          `json:"quoted,string"`
	Odd    int                          `json:"<odd>"`
	Skip   string                       `json:"-"`
	Deep   map[string]map[string][]bool `json:"deep"`
	Plain  string
	hidden string
}

type merged struct {
	embedded
	List []embedded `json:"list"`
}

func alike(t *testing.T, v any) {
	t.Helper()
	want, wantErr := json.Marshal(v)
	have, err := Marshal(v)
	if wantErr != nil {
		require.EqualError(t, err, wantErr.Error())
		return
	}
	require.NoError(t, err)
	require.Equal(t, string(want), string(have))
}

func TestMarshalDoesWhatPackageJSONDoes(t *testing.T) {
	t.Parallel()
	yes, prefix := true, netip.MustParsePrefix("10.0.0.0/8")
	far := written{Name: "far", hidden: "h", Skip: "s", Struct: struct{ X, Y int8 }{1, -128}, Big: 1<<64 - 1, Real: 1.5e300}
	for _, v := range []any{
		nil, true, 1, -1, 1.5, "", "a", "\x00\"\\<>&\u2028é\xff\x7f", []string{}, []string(nil), []string{"a", "b"}, []byte("ab"), [2]bool{true},
		map[string]bool(nil), map[string]bool{}, map[string]bool{"b": true, "a": false, "<": true}, map[int]int{2: 1, 1: 2}, &yes, (*bool)(nil),
		prefix, &prefix, netip.Prefix{}, []netip.Addr{{}, prefix.Addr()}, json.RawMessage(" [ 1, \"<é\" ] "), json.RawMessage(nil), struct{}{},
		Object{"z": json.RawMessage(`{"b":1, "a":2}`), "a": json.RawMessage(`null`)}, Object(nil), []any{nil, 1, "x", map[string]any{"k": []int{1}}},
		written{}, &far, written{Flag: &yes, Bytes: []byte{1}, Raw: json.RawMessage(`{ }`), Any: []any{far}, Map: map[string]int{"x": 1},
			Named: map[netip.Addr]string{prefix.Addr(): "a"}, List: [][]netip.Prefix{{prefix}, nil, {}}, Addr: prefix.Addr(), Time: time.Unix(0, 0).UTC(),
			Never: never{1}, Self: []spaced{{1}, {2}}, Far: &far, Deep: map[string]map[string][]bool{"a": {"b": {true}}, "": nil}},
		merged{embedded: embedded{Number: 1}, List: []embedded{{}}}, spaced{1}, &spaced{1}, []*spaced{nil, {1}}, map[string]spaced{"a": {1}},
		failing{}, []any{1, failing{}}, make(chan int), map[string]any{"a": func() {}}, [][]failing{{{}}},
	} {
		alike(t, v)
	}
}

func FuzzMarshalDoesWhatPackageJSONDoes(f *testing.F) {
	for _, s := range append(samples, documents...) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{new(written), new(outer), new(any), new(Object)} {
			if json.Unmarshal(data, v) == nil {
				alike(t, v)
			}
		}
	})
}

func TestAnObjectKeepsWhatItIsNotTold(t *testing.T) {
	t.Parallel()
	var o Object
	require.NoError(t, Unmarshal([]byte(`{"type":"x","kept":1.50,"list":[1, 2],"type":"bridge"}`), &o))
	require.Equal(t, "bridge", o.Text("type"), "of two the last counts")
	require.Empty(t, o.Text("kept"))
	require.Empty(t, o.Text("none"))
	require.NoError(t, o.Fill("type", "other"))
	require.NoError(t, o.Fill("mtu", 1400))
	require.NoError(t, o.Put("list", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}))
	b, err := Marshal(o)
	require.NoError(t, err)
	require.Equal(t, `{"kept":1.50,"list":["10.0.0.0/8"],"mtu":1400,"type":"bridge"}`, string(b))
	require.Error(t, o.Put("type", failing{}))
	require.Equal(t, "bridge", o.Text("type"))
}
