package main

import "errors"

func gatesMain([]string) error { return errors.New("not yet") }
