// Package command is the command line of calicoctl: one file for each verb. Results
// go to standard output, everything else to standard error. The exit status is 0 when
// all was done, 1 when something failed, and 2 when the command line itself is wrong,
// in which case nothing was tried.
package command
