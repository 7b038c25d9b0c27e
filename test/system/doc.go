// Package system tests the whole on Docker: the reference experiment, and what must
// hold when a part of a host is stopped or killed.
package system
