package report

type Plot struct {
	File, Title string
	SVG         []byte
}

func (r *Report) Plots(string) []Plot                  { return nil }
func (r *Report) Markdown(dir string, p []Plot) []byte { return nil }
