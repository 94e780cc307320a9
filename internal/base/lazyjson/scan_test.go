package lazyjson

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// rebuild walks over all of a document and writes it again, compact and with every string as encoding/json writes it.
func rebuild(b []byte, v []byte) []byte {
	switch v[0] {
	case '{':
		b = append(b, '{')
		n := 0
		for k, v := range Members(v) {
			if n++; n > 1 {
				b = append(b, ',')
			}
			b = rebuild(append(rebuild(b, k), ':'), v)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		n := 0
		for v := range Elements(v) {
			if n++; n > 1 {
				b = append(b, ',')
			}
			b = rebuild(b, v)
		}
		return append(b, ']')
	case '"':
		j, _ := json.Marshal(Unquote(v))
		return append(b, j...)
	}
	return append(b, v...)
}

// same checks that the walk sees in a valid document what encoding/json sees.
func same(t *testing.T, doc []byte) {
	t.Helper()
	v, err := Document(doc)
	require.NoError(t, err, "%q", doc)
	require.Equal(t, decodeAny(t, bytes.TrimPrefix(doc, []byte("\ufeff"))), decodeAny(t, rebuild(nil, v)), "%q", doc)
}

func decodeAny(t *testing.T, doc []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber() // a number is what it is written as
	require.NoError(t, d.Decode(&v), "%q", doc)
	return v
}

var documents = []string{
	`{}`, `[]`, `""`, `0`, `-1.5e+3`, `true`, `null`, ` [ ] `, "\ufeff{}",
	`{"a":1}`, `{ "a" : 1 , "b" : [ 1 , 2,3 ] }`, "\n{\n\t\"a\"\r\n:\n[\n]\n}\n",
	`[[],[[]],{},{"a":{}},[{}]]`, `["]","[","}","{",",",":","\"","\\","\\\"","a\\"]`, `{"}":"]","\"":"\\"}`,
	`["\u00e9\ud83d\ude00", "é😀", "\/\b\f\n\r\t", "\ud800", "\u0000"]`, `[1,-2,3.0,4e5,true,false,null]`, `{"a":null,"b":true}`,
	`[1]`, `[1 ]`, "[1\n,2\t]", `{"":""}`, `{"a":"b","a":"c"}`, "[\"\xff\"]",
}

func TestTheWalkSeesWhatEncodingJSONSees(t *testing.T) {
	t.Parallel()
	for _, doc := range documents {
		same(t, []byte(doc))
	}
	deep := bytes.Repeat([]byte("["), 5000)
	deep = append(deep, bytes.Repeat([]byte("]"), 5000)...)
	same(t, deep)
}

func TestTheWalkMayEndAtAnyMember(t *testing.T) {
	t.Parallel()
	for k, v := range Members([]byte(`{"a":1,"b":2}`)) {
		require.Equal(t, `"a" 1`, string(k)+" "+string(v))
		break
	}
	for v := range Elements([]byte(`[1,2]`)) {
		require.Equal(t, "1", string(v))
		break
	}
}

func TestWhatIsNoJSONIsRefusedBeforeTheWalk(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"", " ", "{", "[", `"`, `{"a"}`, `{"a":}`, `[1,]`, `{"a":1,}`, "01", "nul", "[1 2]", "{}{}", "[\"\x00\"]", "\ufeff", "{]"} {
		_, err := Document([]byte(doc))
		require.Error(t, err, "%q", doc)
	}
}

func TestAKeyIsFoundHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	known := []string{"name", "pods"}
	for key, want := range map[string]int{`"name"`: 0, `"pods"`: 1, `"p\u006fds"`: 1, `"Name"`: -1, `""`: -1, `"nam\u0065s"`: -1, `"name "`: -1} {
		require.Equal(t, want, Index(known, []byte(key)), key)
	}
}

func FuzzWalk(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if v, err := Document(doc); err == nil {
			require.NotEmpty(t, v)
			same(t, doc)
		}
	})
}
