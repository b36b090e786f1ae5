{{/* Name of everything in a release: at most 63 characters, as Kubernetes asks. */}}
{{- define "lwc.name" -}}
{{- printf "%s-lwc" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that select the pods: never changed. */}}
{{- define "lwc.selector" -}}
app.kubernetes.io/name: lwc
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lwc.labels" -}}
{{ include "lwc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
