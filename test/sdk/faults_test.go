package sdk

var faultChecks, goneChecks []check
