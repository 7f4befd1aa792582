// Package examples holds modules for the gateway, each with its source and the
// component that was built of it. It has no code; its tests run the components.
package examples
