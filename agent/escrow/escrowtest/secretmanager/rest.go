package secretmanager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Request is what the REST front was asked, for a test that compares clients.
type Request struct {
	Method, Path string
	Query        url.Values
	Body         string
}

// restHandler serves the API in JSON, as gcloud speaks it, from the same code as gRPC:
// https://google.aip.dev/127 says how one becomes the other. Which path is which call is
// not written here again, but read from the service's own descriptor.
func (s *Server) restHandler() http.Handler {
	routes := restRoutes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 4*maxPayload))
		if err != nil {
			return // the caller hung up
		}
		s.mu.Lock()
		s.asked = append(s.asked, Request{r.Method, r.URL.Path, r.URL.Query(), string(body)})
		s.mu.Unlock()
		stream := &restStream{header: metadata.MD{}}
		resp, err := s.serveREST(routes, stream, r, body)
		for name, values := range stream.header {
			w.Header()[http.CanonicalHeaderKey(name)] = values
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		if err != nil {
			// https://google.aip.dev/193
			st := status.Convert(err)
			n, ok := httpStatus[st.Code()]
			if !ok {
				n = http.StatusInternalServerError
			}
			w.WriteHeader(n)
			reply(w, map[string]any{"error": map[string]any{"code": n, "message": st.Message(), "status": code.Code(st.Code()).String()}})
			return
		}
		_, _ = w.Write(resp) // a caller who hung up does not want it
	})
}

// Asked returns what the REST front was asked since the start, or the last Reset.
func (s *Server) Asked() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.asked...)
}

// httpStatus is what google/rpc/code.proto says of each code; what is not here is 500.
var httpStatus = map[codes.Code]int{
	codes.Canceled:           499, // client closed request
	codes.InvalidArgument:    http.StatusBadRequest,
	codes.DeadlineExceeded:   http.StatusGatewayTimeout,
	codes.NotFound:           http.StatusNotFound,
	codes.AlreadyExists:      http.StatusConflict,
	codes.PermissionDenied:   http.StatusForbidden,
	codes.Unauthenticated:    http.StatusUnauthorized,
	codes.ResourceExhausted:  http.StatusTooManyRequests,
	codes.FailedPrecondition: http.StatusBadRequest,
	codes.Aborted:            http.StatusConflict,
	codes.OutOfRange:         http.StatusBadRequest,
	codes.Unimplemented:      http.StatusNotImplemented,
	codes.Unavailable:        http.StatusServiceUnavailable,
}

func (s *Server) serveREST(routes []restRoute, stream *restStream, r *http.Request, body []byte) ([]byte, error) {
	for _, route := range routes {
		m := route.path.FindStringSubmatch(r.URL.Path)
		if m == nil || r.Method != route.verb {
			continue
		}
		fields, err := restFields(route, r.URL.Query(), body)
		if err != nil {
			return nil, err
		}
		if err := setField(fields, route.field, m[1]); err != nil {
			return nil, err
		}
		text, err := json.Marshal(fields)
		if err != nil {
			return nil, err
		}
		stream.method = "/" + pb.SecretManagerService_ServiceDesc.ServiceName + "/" + route.desc.MethodName
		ctx := grpc.NewContextWithServerTransportStream(r.Context(), stream)
		// What Google's front adds is of no interest to its callers; the rest they say themselves.
		md := metadata.Pairs("x-goog-request-params", route.field+"="+url.QueryEscape(m[1]))
		md.Append("authorization", r.Header.Values("Authorization")...)
		ctx = metadata.NewIncomingContext(ctx, md)
		if addr, err := net.ResolveTCPAddr("tcp", r.RemoteAddr); err == nil {
			ctx = peer.NewContext(ctx, &peer.Peer{Addr: addr})
		}
		decode := func(into any) error {
			if err := protojson.Unmarshal(text, into.(proto.Message)); err != nil {
				return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %v", err)
			}
			return nil
		}
		resp, err := route.desc.Handler(s, ctx, decode, s.intercept)
		if err != nil {
			return nil, err
		}
		return protojson.MarshalOptions{Multiline: true}.Marshal(resp.(proto.Message))
	}
	return nil, status.Errorf(codes.NotFound, "The requested URL %s was not found on this server.", r.URL.Path)
}

// restFields is the request in JSON but for what its path says.
func restFields(route restRoute, query url.Values, body []byte) (map[string]any, error) {
	fields := map[string]any{}
	switch {
	case route.body == "":
		if len(body) > 0 {
			return nil, status.Error(codes.InvalidArgument, "Invalid JSON payload received. There is no body in this request.")
		}
	case len(body) > 0:
		var given map[string]any
		if err := json.Unmarshal(body, &given); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %v", err)
		}
		if route.body == "*" {
			fields = given
		} else {
			fields[route.body] = given
		}
	}
	for name, values := range query {
		// https://cloud.google.com/apis/docs/system-parameters
		if name == "alt" && values[0] == "json" || name == "prettyPrint" || strings.HasPrefix(name, "$") {
			continue
		}
		if route.body == "*" || len(values) != 1 {
			return nil, status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. Unknown name %q: Cannot bind query parameter.", name)
		}
		if err := setField(fields, name, values[0]); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

// setField sets a field, or one of a message within, as in "secret.name".
func setField(fields map[string]any, path, value string) error {
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		fields[first] = value
		return nil
	}
	if fields[first] == nil {
		fields[first] = map[string]any{}
	}
	below, ok := fields[first].(map[string]any)
	if !ok {
		return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %q is no message.", first)
	}
	return setField(below, rest, value)
}

// restRoute is one binding of a call to a path (google/api/http.proto).
type restRoute struct {
	desc  grpc.MethodDesc
	verb  string
	path  *regexp.Regexp
	field string // what the path sets: name, parent, resource, secret.name
	body  string // the field that the body is; "*" is the request itself
}

func restRoutes() []restRoute {
	var routes []restRoute
	methods := pb.File_google_cloud_secretmanager_v1_service_proto.Services().ByName("SecretManagerService").Methods()
	for _, desc := range pb.SecretManagerService_ServiceDesc.Methods {
		rule := proto.GetExtension(methods.ByName(protoreflect.Name(desc.MethodName)).Options(), annotations.E_Http).(*annotations.HttpRule)
		for _, b := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
			route := restRoute{desc: desc, body: b.GetBody()}
			template := ""
			switch p := b.GetPattern().(type) {
			case *annotations.HttpRule_Get:
				route.verb, template = http.MethodGet, p.Get
			case *annotations.HttpRule_Post:
				route.verb, template = http.MethodPost, p.Post
			case *annotations.HttpRule_Patch:
				route.verb, template = http.MethodPatch, p.Patch
			case *annotations.HttpRule_Delete:
				route.verb, template = http.MethodDelete, p.Delete
			}
			before, rest, _ := strings.Cut(template, "{")
			variable, after, ok := strings.Cut(rest, "}")
			if !ok {
				panic(fmt.Sprintf("%s has a path of another kind: %q", desc.MethodName, template))
			}
			var segments string
			route.field, segments, _ = strings.Cut(variable, "=")
			segments = strings.ReplaceAll(regexp.QuoteMeta(segments), `\*`, "[^/:]+")
			route.path = regexp.MustCompile("^" + regexp.QuoteMeta(before) + "(" + segments + ")" + regexp.QuoteMeta(after) + "$")
			routes = append(routes, route)
		}
	}
	return routes
}

// restStream takes the headers of an answer.
type restStream struct {
	method string
	header metadata.MD
}

func (t *restStream) Method() string { return t.method }

func (t *restStream) SetHeader(md metadata.MD) error {
	t.header = metadata.Join(t.header, md)
	return nil
}

func (t *restStream) SendHeader(metadata.MD) error { return errors.ErrUnsupported }
func (t *restStream) SetTrailer(metadata.MD) error { return errors.ErrUnsupported }

var _ grpc.ServerTransportStream = (*restStream)(nil)
