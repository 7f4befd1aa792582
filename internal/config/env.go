package config

import (
	"regexp"
	"strings"
)

// envPrefix begins the variables that are ours.
const envPrefix = "SLUICE_"

// envConfig names the file, as --config does.
const envConfig = "SLUICE_CONFIG"

// envName returns the variable of a flag.
func envName(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Kubernetes sets variables in every pod for every service of its namespace.
// For services named sluice, or sluice-something, they look like settings.
var (
	serviceLink  = regexp.MustCompile(`^SLUICE_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)$`)
	servicePort  = regexp.MustCompile(`^SLUICE_(?:[A-Z0-9_]+_)?PORT$`)
	serviceValue = regexp.MustCompile(`^(?:tcp|udp|sctp)://`)
)

// parseEnv reads the variables that are ours into settings. It also returns
// the file that SLUICE_CONFIG names.
func parseEnv(environ []string, faults *Faults) (out []setting, file string) {
	byEnv := make(map[string]*knownFlag)
	for _, f := range knownFlags() {
		byEnv[envName(f.name)] = f
	}
	for _, e := range environ {
		name, value, ok := strings.Cut(e, "=")
		if !ok || !strings.HasPrefix(name, envPrefix) || servicePort.MatchString(name) && serviceValue.MatchString(value) {
			continue
		}
		f := byEnv[name]
		switch {
		case name == envConfig:
			file = value
		case f == nil && serviceLink.MatchString(name):
		case f == nil:
			unknownEnv(name, faults)
		case f.name == flagIGW:
			if b, err := parseBool(value); err != nil {
				faults.addf("%s: %v", name, err)
			} else if !b {
				faults.addf("%s: false; serving several models is always on", name)
			}
		case f.field == nil:
			faults.addf("%s: --%s is not supported yet", name, f.name)
		default:
			out = append(out, setting{f.field, envValues(f.field, value), "env " + name, name})
		}
	}
	return out, file
}

// envValues takes a list apart at its commas.
func envValues(f *field, value string) []string {
	if !f.kind.list() {
		return []string{value}
	}
	var l []string
	for s := range strings.SplitSeq(value, ",") {
		if s = strings.TrimSpace(s); s != "" {
			l = append(l, s)
		}
	}
	return l
}

func unknownEnv(name string, faults *Faults) {
	if faults.full() {
		return
	}
	hint := ""
	norm := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, envPrefix), "_", "-"))
	if n := Nearest(norm, flagNames()); n != "" {
		hint = "; did you mean " + envName(flagNamed()[n].name) + "?"
	}
	faults.addf("unknown variable %s%s", plain(name), hint)
}
