package cli

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"sluice/internal/config"
	"sluice/internal/kit/secret"
)

// flagsOf returns the flags that the tags of the struct dst points to name:
// flag, unit, choices and help mean what they mean for the gateway's settings.
// The values that dst has are the defaults.
func flagsOf(name string, dst any) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = false
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, n string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(n, "_", "-"))
	})
	v := reflect.ValueOf(dst).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		names := strings.Split(f.Tag.Get("flag"), ",")
		if names[0] == "" {
			continue
		}
		help := f.Tag.Get("help")
		if c := f.Tag.Get("choices"); c != "" {
			help += ": " + strings.ReplaceAll(c, ",", ", ")
		}
		define(fs, names[0], help, f, v.Field(i).Addr().Interface())
	}
	return fs
}

// define adds one flag.
func define(fs *pflag.FlagSet, name, help string, f reflect.StructField, p any) {
	switch p := p.(type) {
	case *string:
		if c := f.Tag.Get("choices"); c != "" {
			fs.Var(&choice{p, strings.Split(c, ",")}, name, help)
			return
		}
		fs.StringVar(p, name, *p, help)
	case *bool:
		fs.BoolVar(p, name, *p, help)
	case *int:
		fs.IntVar(p, name, *p, help)
	case *int64:
		fs.Int64Var(p, name, *p, help)
	case *float64:
		fs.Float64Var(p, name, *p, help)
	case *[]string:
		fs.StringArrayVar(p, name, *p, help+" (may be repeated)")
	case *time.Duration:
		fs.Var(&span{p, f.Tag.Get("unit")}, name, help)
	case *secret.String:
		fs.Var(&hidden{p}, name, help)
	default:
		panic("BUG: no flag can be made of field " + f.Name)
	}
}

// parse reads args, which are flags only, into what fs was made of.
func parse(fs *pflag.FlagSet, args []string) error {
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is not a flag; flags begin with --", fs.Arg(0))
	}
	return nil
}

// parseFlags is parse for args among which there may be others, which are in
// fs.Args then.
func parseFlags(fs *pflag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		var unknown *pflag.NotExistError
		if !errors.As(err, &unknown) {
			return err
		}
		var names []string
		fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		hint := ""
		if n := config.Nearest(strings.ReplaceAll(unknown.GetSpecifiedName(), "_", "-"), names); n != "" {
			hint = "; did you mean --" + n + "?"
		}
		return fmt.Errorf("unknown flag --%s%s", unknown.GetSpecifiedName(), hint)
	}
	return nil
}

// usage prints a command's flags.
func usage(w io.Writer, head string, fs *pflag.FlagSet) {
	width, _ := onTerminal(w)
	fmt.Fprintf(w, "%s\n\nFlags:\n%s", strings.TrimSpace(head), fs.FlagUsagesWrapped(width))
}

// choice is a string that must be one of a few.
type choice struct {
	p    *string
	want []string
}

func (c *choice) String() string {
	if c.p == nil {
		return ""
	}
	return *c.p
}
func (c *choice) Type() string { return "string" }
func (c *choice) Set(s string) error {
	if !contains(c.want, s) {
		return fmt.Errorf("want one of %s", strings.Join(c.want, ", "))
	}
	*c.p = s
	return nil
}

// span is a duration: a number of its unit, or with a unit of its own (1m30s).
// Without a tag a bare number is seconds.
type span struct {
	p    *time.Duration
	unit string
}

func (s *span) String() string {
	if s.p == nil || *s.p == 0 {
		return ""
	}
	return s.p.String()
}
func (s *span) Type() string { return "duration" }
func (s *span) Set(in string) error {
	if n, err := strconv.ParseFloat(in, 64); err == nil {
		unit := time.Second
		if s.unit == "ms" {
			unit = time.Millisecond
		}
		if !(n >= 0 && n < 1e9) {
			return fmt.Errorf("want a time such as 10s, not negative")
		}
		*s.p = time.Duration(n * float64(unit))
		return nil
	}
	d, err := time.ParseDuration(in)
	if err != nil || d < 0 {
		return fmt.Errorf("want a time such as 10s or 1m30s")
	}
	*s.p = d
	return nil
}

// hidden is a secret.
type hidden struct{ p *secret.String }

func (h *hidden) String() string     { return "" }
func (h *hidden) Type() string       { return "string" }
func (h *hidden) Set(s string) error { *h.p = secret.New(s); return nil }
