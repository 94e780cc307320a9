// Program program says how it was started.
package main

import (
	"encoding/json"
	"os"
	"runtime"

	_ "github.com/cniblocks/cniblocks/internal/start"
)

func main() {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"args": os.Args, "env": os.Environ(), "processors": runtime.GOMAXPROCS(0), "page": os.Getpagesize(),
	})
}
