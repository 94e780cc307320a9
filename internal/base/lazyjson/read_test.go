package lazyjson

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

type embedded struct {
	Subnet netip.Prefix `json:"subnet"`
	Number int          `json:"number"`
}

type inner struct {
	embedded
	List [][]embedded `json:"list"`
	Own  ownKind      `json:"own"`
}

// ownKind reads itself.
type ownKind struct{ text string }

func (o *ownKind) UnmarshalJSON(b []byte) error {
	o.text = "read " + string(b)
	return nil
}

type outer struct {
	Name   string                          `json:"name"`
	Flag   *bool                           `json:"flag"`
	Bytes  []byte                          `json:"bytes"`
	Raw    json.RawMessage                 `json:"raw"`
	Any    any                             `json:"any"`
	Map    map[string]int                  `json:"map"`
	Maps   map[string]map[string]*embedded `json:"maps"`
	Object Object                          `json:"object"`
	Inner  inner                           `json:"inner"`
	Far    *inner                          `json:"far"`
	Number int                             `json:"number"`
	Small  int8                            `json:"small"`
	Big    uint64                          `json:"big"`
	Real   float64                         `json:"real"`
	Skip   string                          `json:"-"`
	Plain  string
	hidden string
}

var samples = []string{
	`{}`, `null`, `{"name":"a","flag":true,"bytes":"AAE=","raw":{"x":[1]},"any":[null,1.5],"map":{"b":2}}`,
	`{"inner":{"subnet":"10.0.0.0/8","number":1,"list":[[{"subnet":"10.0.0.0/8"},null],[],null],"own":[1]},"number":2}`,
	`{"far":{"own":null,"list":null},"Name":"b","NAME2":"c","plain":"d","-":"e","hidden":"f","Skip":"g"}`,
	`{"name":"a","NAME":"b"}`, `{"name":"a","name":"b"}`, `{"name":1}`, `{"inner":[]}`, `{"number":1e99}`, `{"number":1.5}`, `[]`, `"x"`, `{`, ``,
	`{"inner":{"subnet":"10.0.0.0"}}`, `{"name":null,"inner":null,"far":null,"flag":null,"number":null}`, `{"inner":{"list":[[{"number":"x"}]]}}`,
	`{"name":"a","name":null}`, `{"inner":{"number":1},"inner":{"list":[]}}`, `{"map":{"a":1},"map":{"b":2}}`, `{"n\u0061me":"a"}`, "{\"\u212aey\":1}",
	` { "name" : "a\"]}" , "inner" : { "list" : [ [ { "number" : -12 } , { } ] ] } , "number" : 0 } `, `{"number":-0}`, `{"number":01}`, `{"flag":1}`, `{"number":"1"}`,
	"{\"name\":\"\xff\\u0000\"}", `{"bytes":"%"}`, `{"far":{"number":3,"NUMBER":4}}`,
	`{"map":{"a":1,"a":2,"\u0062":3}}`, `{"map":{"a":"x"}}`, `{"map":null,"maps":null,"object":null}`, `{"map":[]}`,
	`{"maps":{"a":{"b":{"number":1},"c":null},"d":null,"e":{}}}`, `{"object":{"a":null,"b":[ 1 ],"\ud800":{}}}`, `{"maps":{"a":{"b":{"number":1,"number":2}}}}`,
	`{"small":-128,"big":18446744073709551615,"real":1e3}`, `{"small":128}`, `{"big":18446744073709551616}`, `{"big":-1}`, `{"big":1.0}`, `{"real":"x"}`,
}

func equal(t *testing.T, data []byte) {
	preset := func() outer {
		return outer{Name: "preset", Map: map[string]int{"a": 9, "z": 9}, Inner: inner{embedded: embedded{Number: 7}}, hidden: "kept"}
	}
	want, have := preset(), preset()
	wantErr, err := json.Unmarshal(data, &want), Unmarshal(data, &have)
	if wantErr != nil {
		require.EqualError(t, err, wantErr.Error(), "%s", data)
		return
	}
	require.NoError(t, err, "%s", data)
	require.Equal(t, want, have, "%s", data)
}

func TestUnmarshalDoesWhatPackageJSONDoes(t *testing.T) {
	t.Parallel()
	for _, s := range samples {
		equal(t, []byte(s))
	}
	var text string
	require.NoError(t, Unmarshal([]byte(" \"a\" \n"), &text))
	require.Equal(t, "a", text)
	require.Error(t, Unmarshal([]byte(`{}`), outer{}), "no pointer")
	require.Error(t, Unmarshal([]byte(`{}`), nil))
	require.Error(t, Unmarshal([]byte(`{}`), (*outer)(nil)))
}

func TestKeysWithoutAFieldAreToldOf(t *testing.T) {
	t.Parallel()
	outside, inside := Strange{Outer: true}, Strange{Inner: true}
	for text, want := range map[string]Strange{
		`{"name":"a","inner":{"subnet":"10.0.0.0/8"}}`: {},
		`{"Name":"a","common":1}`:                      {},
		`{"nom":"a"}`:                                  outside,
		`{"inner":{"common":1}}`:                       inside,
		`{"inner":{"list":[[{"subnett":"x"}]]}}`:       inside,
		`{"far":{"x":1}}`:                              inside,
		`{"inner":{"own":{"anything":1}}}`:             {},
		`{"inner":{"x":1},"nom":"a"}`:                  {Outer: true, Inner: true},
		`{"inner":{},"nom":"a"}`:                       outside,
		`{"nam\u0065":"a"}`:                            {Outer: true, Inner: true}, // nobody looked
	} {
		strange, err := Keys([]byte(text), &outer{}, "common")
		require.NoError(t, err, text)
		require.Equal(t, want, strange, text)
	}
}

func FuzzUnmarshalDoesWhatPackageJSONDoes(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	f.Fuzz(equal)
}
