package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exitMeanings are the published exit codes, for keyguard(8).
var exitMeanings = []exitDoc{
	{exitDone, "done"},
	{exitInternal, "internal error"},
	{exitUsage, "usage or configuration"},
	{exitLost, "lost: no known key opens the rows"},
	{exitDoubt, "doubt: cannot decide"},
	{exitEscrow, "done, but an escrow failed; status: an escrow lags, or the daemon, the watcher or the drill's timer is not as it should be"},
	{exitNoCopy, "no usable copy"},
	{exitRefused, "refused, to protect the last good copy"},
	{exitBusy, "busy: another process is at work"},
}

type exitDoc struct {
	Code    int    `json:"code"`
	Meaning string `json:"meaning"`
}

// programDoc is the program as its manual pages are made of it (packaging/man).
type programDoc struct {
	Version  string       `json:"version"` // of the program
	Groups   []groupDoc   `json:"groups"`
	Program  commandDoc   `json:"program"`
	Commands []commandDoc `json:"commands"`
	Exits    []exitDoc    `json:"exits"`
}

type groupDoc struct {
	ID    string `json:"id"`
	Title string `json:"title"`
}

type commandDoc struct {
	Name    string    `json:"name"`
	Usage   string    `json:"usage"`
	Group   string    `json:"group"`
	Short   string    `json:"short"`
	Long    string    `json:"long"`
	Example string    `json:"example"`
	Flags   []flagDoc `json:"flags"`
}

type flagDoc struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Value     string `json:"value,omitempty"` // what it takes; "" is nothing
	Usage     string `json:"usage"`
}

// describeCommand prints what packaging/man makes the manual pages of.
func (a *app) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "describe",
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.printJSON(describe(c.Root()))
		},
	}
}

func describe(root *cobra.Command) programDoc {
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	d := programDoc{Version: version, Program: describeOne(root, root.Flags()), Exits: exitMeanings}
	for _, g := range root.Groups() {
		d.Groups = append(d.Groups, groupDoc{g.ID, strings.TrimSuffix(g.Title, ":")})
	}
	for _, c := range published(root) {
		c.InitDefaultHelpFlag()
		d.Commands = append(d.Commands, describeOne(c, c.Flags()))
	}
	return d
}

// published are the commands for others than this program.
func published(root *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.GroupID != "" {
			list = append(list, c)
		}
	}
	return list
}

func describeOne(c *cobra.Command, flags *pflag.FlagSet) commandDoc {
	d := commandDoc{Name: c.Name(), Usage: c.UseLine(), Group: c.GroupID, Short: c.Short, Long: c.Long, Example: c.Example}
	each := func(f *pflag.Flag) {
		if !f.Hidden {
			value, usage := pflag.UnquoteUsage(f)
			d.Flags = append(d.Flags, flagDoc{f.Name, f.Shorthand, value, usage})
		}
	}
	flags.VisitAll(each)
	if c.HasParent() {
		c.InheritedFlags().VisitAll(each)
	}
	return d
}
