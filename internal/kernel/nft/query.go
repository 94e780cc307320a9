//go:build linux

package nft

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// GetTable asks for a table.
func GetTable(t Table) Request {
	return Request{typ: unix.NFT_MSG_GETTABLE, family: t.Family, attrs: t.attrs(unix.NFTA_TABLE_NAME), rows: 1}
}

// Dormant reports of an answer to [GetTable] whether the table's chains are switched off.
func (a Answer) Dormant() bool {
	return len(a.rows) > 0 && getU32(a.rows[0], unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0
}

// GetChain asks for a chain.
func GetChain(t Table, name string) Request {
	var a attrs
	a.str(unix.NFTA_CHAIN_TABLE, t.Name)
	a.str(unix.NFTA_CHAIN_NAME, name)
	return Request{typ: unix.NFT_MSG_GETCHAIN, family: t.Family, attrs: a, rows: 1}
}

// GetSet asks for a set's definition.
func GetSet(t Table, name string) Request {
	var a attrs
	a.str(unix.NFTA_SET_TABLE, t.Name)
	a.str(unix.NFTA_SET_NAME, name)
	return Request{typ: unix.NFT_MSG_GETSET, family: t.Family, attrs: a, rows: 1}
}

// GetElements asks for elements of a set by their keys; if one is missing, so is the whole answer. Of an interval set it
// is the nearest begin of an interval at or before the key that is asked for, if that interval holds the key.
func GetElements(t Table, set string, list ...Element) Request {
	var a attrs
	a.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
	a.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	return Request{typ: unix.NFT_MSG_GETSETELEM, family: t.Family, attrs: append(a, elements(list)...), rows: len(list)}
}

// DumpRules asks for the rules of a chain, and of all chains if it is empty. A chain that does not exist has no rules.
func DumpRules(t Table, chain string) Request {
	var a attrs
	a.str(unix.NFTA_RULE_TABLE, t.Name)
	if chain != "" {
		a.str(unix.NFTA_RULE_CHAIN, chain)
	}
	return Request{typ: unix.NFT_MSG_GETRULE, family: t.Family, attrs: a}
}

// DumpChains asks for all chains of a family.
func DumpChains(family uint8) Request {
	return Request{typ: unix.NFT_MSG_GETCHAIN, family: family}
}

// DumpSets asks for the sets of a table.
func DumpSets(t Table) Request {
	var a attrs
	a.str(unix.NFTA_SET_TABLE, t.Name)
	return Request{typ: unix.NFT_MSG_GETSET, family: t.Family, attrs: a}
}

// DumpElements asks for all elements of a set.
func DumpElements(t Table, set string) Request {
	var a attrs
	a.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
	a.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	return Request{typ: unix.NFT_MSG_GETSETELEM, family: t.Family, attrs: a}
}

// Uses counts of an answer to [GetChain] the chain's own rules, and the rules and elements that jump to it.
func (a Answer) Uses() int {
	if len(a.rows) == 0 {
		return 0
	}
	return int(getU32(a.rows[0], unix.NFTA_CHAIN_USE))
}

// Chains are the chains of an answer to [GetChain] and [DumpChains] in that family.
func (a Answer) Chains(family uint8) (list []Chain) {
	for _, row := range a.rows {
		list = append(list, readChain(family, row))
	}
	return list
}

// Rules are the rules of an answer, in the order of evaluation.
func (a Answer) Rules(family uint8) (list []Rule) {
	for _, row := range a.rows {
		list = append(list, readRule(family, row))
	}
	return list
}

// Sets are the sets of an answer.
func (a Answer) Sets(family uint8) (list []Set) {
	for _, row := range a.rows {
		list = append(list, readSet(family, row))
	}
	return list
}

// Elements are the elements of an answer: of [GetElements] in the order of the keys that were asked for.
func (a Answer) Elements() (list []Element) {
	for _, row := range a.rows {
		list = append(list, readElements(row)...)
	}
	return list
}

// Chain returns a chain; [io/fs.ErrNotExist] if there is none.
func (c *Conn) Chain(t Table, name string) (Chain, error) {
	a, err := c.one(GetChain(t, name))
	if err != nil || len(a.rows) == 0 {
		return Chain{}, orNotExist(err)
	}
	return readChain(t.Family, a.rows[0]), nil
}

func orNotExist(err error) error {
	if err == nil {
		return fs.ErrNotExist
	}
	return err
}

// Chains lists the chains of a family.
func (c *Conn) Chains(family uint8) ([]Chain, error) {
	a, err := c.one(DumpChains(family))
	return a.Chains(family), absent(err)
}

// Rules lists the rules of a chain, or of the whole table where chain is empty.
func (c *Conn) Rules(t Table, chain string) ([]Rule, error) {
	a, err := c.one(DumpRules(t, chain))
	return a.Rules(t.Family), absent(err)
}

// Sets lists the sets of a table.
func (c *Conn) Sets(t Table) ([]Set, error) {
	a, err := c.one(DumpSets(t))
	return a.Sets(t.Family), absent(err)
}

// Elements lists the elements of a set.
func (c *Conn) Elements(t Table, set string) ([]Element, error) {
	a, err := c.one(DumpElements(t, set))
	return a.Elements(), absent(err)
}

// absent makes a list of what does not exist an empty one.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Generation is the number of the ruleset, which every transaction of anybody in the namespace raises.
func (c *Conn) Generation() (uint32, error) {
	a, err := c.one(Request{typ: unix.NFT_MSG_GETGEN, rows: 1})
	if err != nil || len(a.rows) == 0 {
		return 0, orNotExist(err)
	}
	return getU32(a.rows[0], unix.NFTA_GEN_ID), nil
}
