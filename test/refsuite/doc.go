// Package refsuite runs the reference plugins' own tests against executable files: theirs, and ours.
//
// The tests of containernetworking/plugins call a plugin's functions in their own process. Here the calls are redirected
// when the tests are compiled, from a copy of the module in a directory of their own: each executes the file of the plugin.
// Nothing of the module is in this tree. Specs that call no verb of a plugin are about functions inside of the reference and say
// nothing of ours: they are counted as not applicable.
//
// A plugin is one line of the table in refsuite_test.go. What may fail with our files and passes with the reference's is
// listed there with the reason; anything else fails the test, and so does a line of the list that is no longer needed.
// With -focus EXPRESSION only specs whose name matches are run. Those about VLANs need a kernel that filters them. Where the
// running one does not, the virtual machine takes some ten minutes for them, too long for a lane:
//
//	make build vm && cd test && CNIBLOCKS_PLUGINS=$PWD/../bin CGO_ENABLED=0 go test -exec $PWD/../out/vm -v -run /bridge ./refsuite -focus '(?i)vlan'
package refsuite
