# Who may run `keyguard fleet`: sees every secret of the project, its versions and its policy,
# and reads no value. roles/secretmanager.viewer has no secretmanager.versions.access.
terraform {
  required_version = ">= 1.3"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 4.0"
    }
  }
}

variable "project" {
  description = "The project that holds the hosts' secrets."
  type        = string
}

variable "members" {
  description = "Who looks: \"user:…\", \"group:…\", \"serviceAccount:…\"."
  type        = set(string)
}

variable "asset_inventory" {
  description = "Also --asset-inventory, for thousands of hosts."
  type        = bool
  default     = false
}

variable "project_policy" {
  description = "Also who may destroy on the whole project, for --iam."
  type        = bool
  default     = false
}

locals {
  roles = concat(
    ["roles/secretmanager.viewer"],
    var.asset_inventory ? ["roles/cloudasset.viewer"] : [],
    var.project_policy ? ["roles/iam.securityReviewer"] : [],
  )
}

resource "google_project_iam_member" "auditor" {
  for_each = { for pair in setproduct(local.roles, var.members) : "${pair[0]} ${pair[1]}" => pair }

  project = var.project
  role    = each.value[0]
  member  = each.value[1]
}
