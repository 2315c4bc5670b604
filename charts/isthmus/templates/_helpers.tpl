{{/* The fixed name of the Deployment, Service, ServiceAccount and Lease. */}}
{{- define "isthmus.name" -}}
isthmus-controller
{{- end }}

{{/* Names without a namespace carry the release's namespace, so that two releases can share a cluster. */}}
{{- define "isthmus.clusterName" -}}
isthmus-controller-{{ .Release.Namespace }}
{{- end }}

{{/* The MutatingWebhookConfiguration: the controller finds it by this name. */}}
{{- define "isthmus.injector" -}}
isthmus-injector-{{ .Release.Namespace }}
{{- end }}

{{- define "isthmus.selector" -}}
app.kubernetes.io/name: isthmus-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "isthmus.labels" -}}
{{ include "isthmus.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: controller
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image in full: (list . .Values.image). */}}
{{- define "isthmus.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}
