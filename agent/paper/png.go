package paper

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// The page in dots. Its size, 210 by 279 mm, is what A4 and Letter have in common, so
// that it fills either without being cut.
const (
	dpi    = 200
	width  = 210 * dpi * 10 / 254
	height = 279 * dpi * 10 / 254
	margin = 15 * dpi * 10 / 254
	module = 12 // of the code: 1.5 mm
)

// canvas is a page on which text grows downwards.
type canvas struct {
	*image.Gray
	y int
}

// face is a font in a size, in points.
func face(ttf []byte, size float64) (font.Face, error) {
	f, err := opentype.Parse(ttf)
	if err != nil {
		return nil, err
	}
	return opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: dpi, Hinting: font.HintingFull})
}

// faces are the fonts of the page.
type faces struct{ title, head, text, mono, words font.Face }

func loadFaces() (f faces, err error) {
	for _, one := range []struct {
		face *font.Face
		ttf  []byte
		size float64
	}{
		{&f.title, gobold.TTF, 15}, {&f.head, gobold.TTF, 10}, {&f.text, goregular.TTF, 9.5},
		{&f.mono, gomono.TTF, 9}, {&f.words, gomonobold.TTF, 11},
	} {
		if *one.face, err = face(one.ttf, one.size); err != nil {
			return f, fmt.Errorf("cannot load a font: %w", err)
		}
	}
	return f, nil
}

// at writes a line at x whose top is c.y, and does not move down.
func (c *canvas) at(f font.Face, x int, text string) {
	d := font.Drawer{Dst: c, Src: image.Black, Face: f, Dot: fixed.P(x, c.y+f.Metrics().Ascent.Ceil())}
	d.DrawString(text)
}

// down moves by a number of lines, in percent.
func (c *canvas) down(f font.Face, percent int) { c.y += f.Metrics().Height.Ceil() * percent / 100 }

// paragraph writes wrapped text from x to the right margin.
func (c *canvas) paragraph(f font.Face, x int, text string) {
	fits := func(s string) bool { return font.MeasureString(f, s).Ceil() <= width-margin-x }
	for _, line := range wrap(text, fits) {
		c.at(f, x, line)
		c.down(f, 110)
	}
}

// UnsafePNG returns the page as a PNG image, to be printed at 200 dots per inch or as
// large as the paper.
func (s Sheet) UnsafePNG() ([]byte, error) {
	m, err := s.matrix()
	if err != nil {
		return nil, err
	}
	f, err := loadFaces()
	if err != nil {
		return nil, err
	}
	c := &canvas{Gray: image.NewGray(image.Rect(0, 0, width, height)), y: margin}
	defer clear(c.Pix)
	draw.Draw(c, c.Bounds(), image.White, image.Point{}, draw.Src)

	c.at(f.title, margin, s.title())
	c.down(f.title, 150)
	for _, fact := range s.facts() {
		c.at(f.head, margin, fact.Name)
		c.paragraph(f.text, margin+250, fact.Value)
		c.down(f.text, 20)
	}
	c.down(f.text, 60)
	c.key(f, m, s)
	for _, sec := range s.sections() {
		c.down(f.text, 60)
		c.at(f.head, margin, sec.Title)
		c.down(f.head, 115)
		c.paragraph(f.text, margin, sec.Text)
		for _, line := range sec.Code {
			c.at(f.mono, margin+50, line)
			c.down(f.mono, 115)
		}
	}
	var b bytes.Buffer
	err = png.Encode(&b, c.Gray)
	return b.Bytes(), err
}

// key draws the code with the words beside it, and the base64 below.
func (c *canvas) key(f faces, m [][]bool, s Sheet) {
	top := c.y
	module := module * 37 / len(m) // as wide as a key's
	for y, row := range m {
		for x, black := range row {
			if black {
				at := image.Rect(0, 0, module, module).Add(image.Pt(margin+x*module, top+y*module))
				draw.Draw(c, at, image.NewUniform(color.Black), image.Point{}, draw.Src)
			}
		}
	}
	x := margin + (len(m)+quiet)*module
	for i, line := range s.words() {
		c.at(f.text, x, fmt.Sprint(i+1))
		for j, word := range line {
			gap := 0
			if j == len(line)-1 {
				gap = 20
			}
			c.at(f.words, x+40+j*172+gap, word)
		}
		c.down(f.words, 140)
	}
	c.paragraph(f.text, x, s.wordsNote())
	c.y = max(c.y, top+len(m)*module)
	c.down(f.text, 50)
	c.at(f.text, margin, s.codeNote())
	lines := s.printed()
	c.at(f.mono, margin+font.MeasureString(f.text, s.codeNote()+"  ").Ceil(), lines[0])
	for _, line := range lines[1:] {
		c.down(f.text, 115)
		c.at(f.mono, margin+50, line)
	}
	c.down(f.text, 100)
}
