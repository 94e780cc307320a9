//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

const completionText = `Usage: cniblocks completion bash|zsh|fish

Prints what makes a shell complete commands, options and their values. It is made from the tables of the options
themselves. 'make install' and the package put it where the shells look for it.

  cniblocks completion bash > /usr/share/bash-completion/completions/cniblocks
  cniblocks completion zsh > /usr/local/share/zsh/site-functions/_cniblocks
  cniblocks completion fish > /usr/share/fish/vendor_completions.d/cniblocks.fish
`

// madeBy is in every file that is made for other programs, by which 'make uninstall' knows them.
const madeBy = "Made by github.com/cniblocks/cniblocks/cmd/cniblocks."

func completion(_ context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("completion", completionText)
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	shells := map[string]func(io.Writer){"bash": completeBash, "zsh": completeZsh, "fish": completeFish}
	if len(words) == 0 || shells[words[0]] == nil {
		fmt.Fprintln(errs, "cniblocks completion: want bash, zsh or fish; 'cniblocks completion --help' explains")
		return misuse
	}
	shells[words[0]](out)
	return 0
}

var (
	choice   = regexp.MustCompile(`^(?:WORD|FORM|LEVEL|FAMILY|FAMILIES)$`)
	between  = regexp.MustCompile(`, | or `)
	sentence = regexp.MustCompile(`[;:]`)
)

// choices are the values that what is said of an option lists.
func (l option) choices() (words []string) {
	_, list, found := strings.Cut(l.what, l.value)
	if !found || !choice.MatchString(l.value) {
		return nil
	}
	list = sentence.Split(strings.TrimLeft(list, ": "), 2)[0]
	for _, phrase := range between.Split(list, -1) {
		if f := strings.Fields(strings.TrimPrefix(phrase, "or ")); len(f) > 0 {
			words = append(words, f[0])
		}
	}
	return words
}

func (l option) isFile() bool { return l.value == "FILE" || l.value == "PATH" }
func (l option) isDir() bool  { return l.value == "DIR" }

// words are those that the usage of the command gives for its first word, such as up|down.
func (c command) words() []string {
	line, _, _ := strings.Cut(c.options().text, "\n")
	fields := strings.Fields(strings.TrimPrefix(line, "Usage: cniblocks "+c.name))
	if len(fields) == 0 || strings.Trim(fields[0], "abcdefghijklmnopqrstuvwxyz|") != "" {
		return nil
	}
	return strings.Split(fields[0], "|")
}

// takesDir reports whether the command's word is a directory.
func (c command) takesDir() bool {
	return strings.HasPrefix(c.options().text, "Usage: cniblocks "+c.name+" DIR")
}

func names(all []command) []string {
	list := []string{"help"}
	for _, c := range all {
		list = append(list, c.name)
	}
	return list
}

func completeBash(w io.Writer) {
	all := commands()
	fmt.Fprintf(w, "# Completion of cniblocks for bash. %s\n", madeBy)
	fmt.Fprintf(w, `_cniblocks() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ] || { [ "$COMP_CWORD" -eq 2 ] && [ "$prev" = help ]; }; then
		mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")
		return
	fi
	case ${COMP_WORDS[1]}:$prev in
`, strings.Join(names(all), " "))
	for _, c := range all {
		for _, o := range c.options().table() {
			action := ""
			switch list := o.choices(); {
			case o.value == "":
				continue
			case o.isFile():
				action = `compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); `
			case o.isDir():
				action = `compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); `
			case list != nil:
				action = fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %q -- "$cur"); `, strings.Join(list, " "))
			}
			fmt.Fprintf(w, "\t%s:%s) %sreturn ;;\n", c.name, o.name, action)
		}
	}
	fmt.Fprint(w, "\tesac\n\tcase ${COMP_WORDS[1]}:$cur in\n")
	for _, c := range all {
		list := []string{"--help"}
		for _, o := range c.options().table() {
			list = append(list, o.name)
		}
		fmt.Fprintf(w, "\t%s:-*) words=%q ;;\n", c.name, strings.Join(list, " "))
		switch list := c.words(); {
		case list != nil:
			fmt.Fprintf(w, "\t%s:*) words=%q ;;\n", c.name, strings.Join(list, " "))
		case c.takesDir():
			fmt.Fprintf(w, "\t%s:*) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); return ;;\n", c.name)
		}
	}
	fmt.Fprint(w, "\tesac\n\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\ncomplete -F _cniblocks cniblocks\n")
}

// quoted is a text in single quotes, for any of the shells.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var zshSpecial = strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`)

func completeZsh(w io.Writer) {
	fmt.Fprintf(w, "#compdef cniblocks\n# %s\n\n_cniblocks() {\n\tlocal -a commands=(\n\t\t'help:explain a command'\n", madeBy)
	for _, c := range commands() {
		fmt.Fprintf(w, "\t\t%s\n", quoted(c.name+":"+c.brief))
	}
	fmt.Fprint(w, "\t)\n\tif (( CURRENT == 2 )) || [[ $CURRENT == 3 && $words[2] == help ]]; then\n\t\t_describe -t commands command commands\n\t\treturn\n\tfi\n"+
		"\tlocal command=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "\t%s) _arguments \\\n\t\t'--help[explain it]'", c.name)
		for _, o := range c.options().table() {
			spec := o.name
			switch {
			case o.value != "" && strings.HasPrefix(o.name, "--"):
				spec += "="
			case o.value != "":
				spec += "+"
			}
			spec += "[" + zshSpecial.Replace(o.what) + "]"
			if o.value != "" {
				spec += ":" + zshSpecial.Replace(o.value) + ":"
			}
			switch list := o.choices(); {
			case o.isFile():
				spec += "_files"
			case o.isDir():
				spec += "_files -/"
			case list != nil:
				spec += "(" + strings.Join(list, " ") + ")"
			}
			fmt.Fprintf(w, " \\\n\t\t%s", quoted(spec))
		}
		switch list := c.words(); {
		case list != nil:
			fmt.Fprintf(w, " \\\n\t\t%s", quoted("1:word:("+strings.Join(list, " ")+")"))
		case c.takesDir():
			fmt.Fprintf(w, " \\\n\t\t'1:directory:_files -/'")
		}
		fmt.Fprint(w, " ;;\n")
	}
	fmt.Fprint(w, "\tesac\n}\n\n_cniblocks \"$@\"\n")
}

func completeFish(w io.Writer) {
	fish := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" }
	all := commands()
	first := "not __fish_seen_subcommand_from " + strings.Join(slices.DeleteFunc(names(all), func(n string) bool { return n == "help" }), " ")
	fmt.Fprintf(w, "# Completion of cniblocks for fish. %s\ncomplete -c cniblocks -f\n", madeBy)
	fmt.Fprintf(w, "complete -c cniblocks -n %s -a help -d 'explain a command'\n", fish(first))
	for _, c := range all {
		fmt.Fprintf(w, "complete -c cniblocks -n %s -a %s -d %s\n", fish(first), c.name, fish(c.brief))
		when := fish("__fish_seen_subcommand_from " + c.name)
		fmt.Fprintf(w, "complete -c cniblocks -n %s -l help -d 'explain it'\n", when)
		for _, o := range c.options().table() {
			flag := "-l " + strings.TrimPrefix(o.name, "--")
			if !strings.HasPrefix(o.name, "--") {
				flag = "-s " + strings.TrimPrefix(o.name, "-")
			}
			switch list := o.choices(); {
			case o.isFile():
				flag += " -r -F"
			case o.isDir():
				flag += " -x -a '(__fish_complete_directories)'"
			case list != nil:
				flag += " -x -a " + fish(strings.Join(list, " "))
			case o.value != "":
				flag += " -x"
			}
			fmt.Fprintf(w, "complete -c cniblocks -n %s %s -d %s\n", when, flag, fish(o.what))
		}
		switch list := c.words(); {
		case list != nil:
			fmt.Fprintf(w, "complete -c cniblocks -n %s -a %s\n", when, fish(strings.Join(list, " ")))
		case c.takesDir():
			fmt.Fprintf(w, "complete -c cniblocks -n %s -a '(__fish_complete_directories)'\n", when)
		}
	}
}
