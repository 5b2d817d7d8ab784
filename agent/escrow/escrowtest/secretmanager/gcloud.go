package secretmanager

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// Gcloud is a stand-in for the part of `gcloud secrets` that the runbook uses, where
// gcloud is not installed. It sends what gcloud 528.0.0 sends, takes the settings that
// the tests give gcloud from the same variables, and prints a payload as gcloud does: as
// text, every byte that is none replaced. It returns the exit status.
func Gcloud(args []string, out, errs io.Writer) int {
	if err := gcloud(args, out, errs); err != nil {
		fmt.Fprintln(errs, "ERROR: (gcloud."+strings.Join(args[:min(3, len(args))], ".")+")", err)
		return 1
	}
	return 0
}

func gcloud(args []string, out, errs io.Writer) error {
	var words []string
	flags := map[string]string{}
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok && strings.HasPrefix(name, "--") {
			flags[name] = value
		} else {
			words = append(words, a)
		}
	}
	if len(words) < 3 {
		return fmt.Errorf("the stand-in has no %q", args)
	}
	secret := "secrets/" + words[len(words)-1]
	version := "secrets/" + flags["--secret"] + "/versions/" + words[len(words)-1]
	switch command := strings.Join(words[:len(words)-1], " "); command {
	case "secrets create":
		body := map[string]any{"annotations": map[string]any{}, "replication": map[string]any{flags["--replication-policy"]: map[string]any{}}}
		if err := gcloudCall(http.MethodPost, "secrets?alt=json&secretId="+words[2], body, nil); err != nil {
			return err
		}
		fmt.Fprintf(errs, "Created secret [%s].\n", words[2])
	case "secrets versions add":
		data, err := os.ReadFile(flags["--data-file"])
		if err != nil {
			return err
		}
		sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
		var made struct{ Name string }
		body := map[string]any{"payload": map[string]any{
			"data": base64.URLEncoding.EncodeToString(data), "dataCrc32c": strconv.FormatUint(uint64(sum), 10),
		}}
		if err := gcloudCall(http.MethodPost, secret+":addVersion?alt=json", body, &made); err != nil {
			return err
		}
		fmt.Fprintf(errs, "Created version [%s] of the secret [%s].\n", made.Name[strings.LastIndexByte(made.Name, '/')+1:], words[3])
	case "secrets versions list":
		var list struct {
			Versions []struct{ Name, State string }
		}
		if err := gcloudCall(http.MethodGet, secret+"/versions?alt=json&pageSize=0", nil, &list); err != nil {
			return err
		}
		fmt.Fprintln(out, "NAME  STATE")
		for _, v := range list.Versions {
			fmt.Fprintf(out, "%-4s  %s\n", v.Name[strings.LastIndexByte(v.Name, '/')+1:], strings.ToLower(v.State))
		}
	case "secrets versions access":
		var got struct {
			Payload struct {
				Data       []byte
				DataCrc32c string
			}
		}
		if err := gcloudCall(http.MethodGet, version+":access?alt=json", nil, &got); err != nil {
			return err
		}
		data := got.Payload.Data
		if sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)); got.Payload.DataCrc32c != strconv.FormatUint(uint64(sum), 10) {
			return errors.New("an incorrect data_crc32c was calculated for the provided payload")
		}
		if path := flags["--out-file"]; path != "" {
			return os.WriteFile(path, data, 0o600)
		}
		_, err := io.WriteString(out, string([]rune(string(data)))) // a rune U+FFFD for a byte that is none
		return err
	case "secrets versions enable", "secrets versions disable", "secrets versions destroy":
		done := strings.TrimPrefix(command, "secrets versions ")
		if err := gcloudCall(http.MethodPost, version+":"+done+"?alt=json", map[string]any{}, nil); err != nil {
			return err
		}
		fmt.Fprintf(errs, "%sd version [%s] of the secret [%s].\n", done, words[3], flags["--secret"])
	default:
		return fmt.Errorf("the stand-in has no %q", args)
	}
	return nil
}

// gcloudCall makes one request below the project.
func gcloudCall(method, path string, body, into any) error {
	token, err := os.ReadFile(os.Getenv("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"))
	if err != nil {
		return err
	}
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	url := os.Getenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER") + "v1/projects/" + os.Getenv("CLOUDSDK_CORE_PROJECT") + "/" + path
	req, err := http.NewRequest(method, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var failed struct {
			Error struct{ Status, Message string }
		}
		if err := json.Unmarshal(answer, &failed); err != nil {
			return fmt.Errorf("HTTP %d: %w", resp.StatusCode, err)
		}
		return fmt.Errorf("%s: %s", failed.Error.Status, failed.Error.Message)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
