package calc

// postings lists things by label and value. A thing may also stand under a label's name
// alone, for any value.
type postings[T comparable] map[string]*posting[T]

type posting[T comparable] struct {
	byValue map[string]map[T]struct{}
	anyVal  map[T]struct{}
}

func (p postings[T]) at(label string) *posting[T] {
	e := p[label]
	if e == nil {
		e = &posting[T]{byValue: map[string]map[T]struct{}{}, anyVal: map[T]struct{}{}}
		p[label] = e
	}
	return e
}

func (p postings[T]) add(label, value string, t T) {
	e := p.at(label)
	m := e.byValue[value]
	if m == nil {
		m = map[T]struct{}{}
		e.byValue[value] = m
	}
	m[t] = struct{}{}
}

func (p postings[T]) remove(label, value string, t T) {
	e := p[label]
	if e == nil {
		return
	}
	delete(e.byValue[value], t)
	if len(e.byValue[value]) == 0 {
		delete(e.byValue, value)
	}
	p.drop(label, e)
}

func (p postings[T]) addName(label string, t T) { p.at(label).anyVal[t] = struct{}{} }

func (p postings[T]) removeName(label string, t T) {
	if e := p[label]; e != nil {
		delete(e.anyVal, t)
		p.drop(label, e)
	}
}

func (p postings[T]) drop(label string, e *posting[T]) {
	if len(e.byValue) == 0 && len(e.anyVal) == 0 {
		delete(p, label)
	}
}

// visit calls f with what stands under the label with this value, or with any.
func (p postings[T]) visit(label, value string, f func(T)) {
	if e := p[label]; e != nil {
		for t := range e.byValue[value] {
			f(t)
		}
		for t := range e.anyVal {
			f(t)
		}
	}
}

// visitValue calls f with what stands under the label with this value.
func (p postings[T]) visitValue(label, value string, f func(T)) {
	if e := p[label]; e != nil {
		for t := range e.byValue[value] {
			f(t)
		}
	}
}

// visitName calls f with what stands under the label with whatever value.
func (p postings[T]) visitName(label string, f func(T)) {
	if e := p[label]; e != nil {
		for _, m := range e.byValue {
			for t := range m {
				f(t)
			}
		}
	}
}
