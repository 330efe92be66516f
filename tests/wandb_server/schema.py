"""GraphQL's queries and mutations."""

from __future__ import annotations

import json

from wandb_server.graphql import GraphQLError, Obj, T
from wandb_server.nodes import (
    ArtifactT,
    MembershipT,
    ProjectT,
    RunT,
    SweepT,
    ViewT,
    connection,
)
from wandb_server.records import FEATURES, Store, gid, jloads, rid


class Schema:
    def __init__(self, st: Store):
        self.st = st

    def user(self) -> Obj:
        o = Obj(
            {
                "id": gid("User", 1),
                "name": self.st.entity,
                "username": self.st.entity,
                "email": "fake@example.invalid",
                "admin": False,
                "flags": "{}",
                "entity": self.st.entity,
                "deletedAt": None,
                "apiKeys": {"edges": []},
                "teams": {"edges": [{"node": {"name": self.st.entity}}]},
            }
        )
        o.type = "User"
        return o

    def entity(self, name: str) -> Obj:
        o = Obj(
            {
                "id": gid("Entity", name),
                "name": name,
                "isTeam": False,
                "organization": T(
                    "Organization",
                    name="fake-org",
                    orgEntity={"name": "fake-org"},
                    coreWeaveOrganizationId=None,
                ),
                "user": None,
                "xxhashDigestsEnabled": False,
            }
        )
        o.type = "Entity"
        return o

    def query(self) -> Obj:
        s = self

        class Query(Obj):
            type = "Query"

            def f_viewer(self, **_):
                return s.user()

            def f_serverInfo(self, **_):
                return {
                    "features": [{"name": f, "isEnabled": True} for f in FEATURES],
                    "cliVersionInfo": {"max_cli_version": "9.9.9", "min_cli_version": "0.0.1"},
                    "latestLocalVersionInfo": {
                        "outOfDate": False,
                        "latestVersionString": "9.9.9",
                        "versionOnThisInstanceString": "9.9.9",
                    },
                }

            def f_entity(self, name=None, **_):
                return s.entity(name or s.st.entity)

            def f_project(self, name=None, entityName=None, **_):
                p = s.st.project(entityName, name)
                return ProjectT(s, p) if p else None

            def f_model(self, name=None, entityName=None, **_):
                return self.f_project(name, entityName)

            def f_models(self, entityName=None, after=None, first=None, **_):
                ps = [
                    ProjectT(s, p)
                    for p in s.st.projects.values()
                    if p["entity"] == (entityName or s.st.entity)
                ]
                return connection(ps, after, first)

            f_projects = f_models

            def f_artifact(self, id=None, **_):
                a = s.st.artifacts.get(id)
                return ArtifactT(s, a) if a else None

            def f_clientIDMapping(self, clientID=None, **_):
                g = s.st.client_ids.get(clientID)
                return {"serverID": g} if g else None

            def f_organization(self, **_):
                return None

            def f_users(self, **_):
                return connection([s.user()])

        return Query()

    def mutation(self) -> Obj:
        s, st = self, self.st

        class Mutation(Obj):
            type = "Mutation"

            def f_upsertBucket(self, input=None, **_):
                run, inserted = st.upsert_run(input)
                return {"bucket": RunT(s, run), "inserted": inserted}

            def f_upsertModel(self, input=None, **_):
                known = st.project(input.get("entityName"), input.get("name")) is not None
                p = st.project(input.get("entityName"), input.get("name"), create=True)
                return {"project": ProjectT(s, p), "model": ProjectT(s, p), "inserted": not known}

            def f_createRunFiles(self, input=None, **_):
                run = st.run(
                    input.get("entityName"), input.get("projectName"), input.get("runName")
                )
                if run is None:
                    raise GraphQLError(f"run {input.get('runName')} not found")
                return {
                    "runID": run["gid"],
                    "uploadHeaders": [],
                    "files": [
                        {"name": f, "uploadUrl": st.run_file_upload(run, f)}
                        for f in input.get("files") or []
                    ],
                }

            def f_markRunFilesUploaded(self, input=None, **_):
                run = st.run(
                    input.get("entityName"), input.get("projectName"), input.get("runName")
                )
                for f in input.get("files") or []:
                    if run:
                        st.mark_uploaded(run, f)
                return {"success": run is not None}

            def f_updateRunState(self, input=None, **_):
                run = st.run_by_gid(input.get("id"))
                if run:
                    run["state"] = input.get("state")
                return {"success": run is not None}

            def f_stopRun(self, input=None, **_):
                run = st.run_by_gid(input.get("id"))
                if run:
                    run["stop_requested"] = True
                return {"success": run is not None}

            def f_deleteRun(self, input=None, **_):
                run = st.run_by_gid(input.get("id"))
                if run:
                    st.runs.pop((run["entity"], run["project"], run["run_id"]))
                return {"clientMutationId": None, "success": run is not None}

            def f_notifyScriptableRunAlert(self, input=None, **_):
                st.alerts.append(dict(input))
                return {"success": True}

            # artifacts
            def f_createArtifactType(self, input=None, **_):
                return {
                    "artifactType": {
                        "id": gid("ArtifactType", input.get("name")),
                        "name": input.get("name"),
                    }
                }

            def f_createArtifact(self, input=None, **_):
                return {"artifact": ArtifactT(s, st.create_artifact(input))}

            def f_createArtifactManifest(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                mid = gid("ArtifactManifest", next(st.seq))
                bid = st.blob(input.get("name") or "manifest", kind="manifest", manifest=mid)
                st.manifests[mid] = {
                    "artifact": art["gid"],
                    "digest": input.get("digest"),
                    "content": None,
                    "blob": bid,
                }
                art["manifest"] = mid
                return {
                    "artifactManifest": {
                        "id": mid,
                        "file": {
                            "id": gid("File", bid),
                            "uploadUrl": st.url(bid),
                            "uploadHeaders": [],
                        },
                    }
                }

            def f_updateArtifactManifest(self, input=None, **_):
                mid = input.get("artifactManifestID")
                man = st.manifests.get(mid)
                if man is None:
                    raise GraphQLError("manifest not found")
                bid = st.blob("manifest", kind="manifest", manifest=mid)
                return {
                    "artifactManifest": {
                        "id": mid,
                        "file": {
                            "id": gid("File", bid),
                            "uploadUrl": st.url(bid),
                            "uploadHeaders": [],
                        },
                    }
                }

            def f_createArtifactFiles(self, input=None, **_):
                edges = []
                for spec in input.get("artifactFiles") or []:
                    art = st.artifacts.get(spec.get("artifactID"))
                    have = st.find_blob(spec.get("md5"))
                    url = None
                    if have is None:
                        url = st.url(
                            st.blob(
                                spec.get("name"),
                                kind="artifact_file",
                                want_md5=spec.get("md5"),
                                artifact=spec.get("artifactID"),
                            )
                        )
                    edges.append(
                        {
                            "node": {
                                "id": gid("File", spec.get("name")),
                                "name": spec.get("name"),
                                "displayName": spec.get("name"),
                                "storagePath": f"fake/{spec.get('md5')}",
                                "uploadUrl": url,
                                "uploadHeaders": [],
                                "uploadMultipartUrls": None,
                                "artifact": ArtifactT(s, art) if art else None,
                            }
                        }
                    )
                return {"files": {"edges": edges}}

            def f_commitArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                st.commit(art)
                return {"artifact": ArtifactT(s, art)}

            def f_linkArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None or art["state"] != "COMMITTED":
                    raise GraphQLError("artifact not found, or not committed")
                place = [
                    input.get(k) for k in ("entityName", "projectName", "artifactPortfolioName")
                ]
                aliases = [a["alias"] for a in input.get("aliases") or []]
                link = {"to": "/".join(place), "artifact": st.art_name(art), "aliases": aliases}
                if link not in st.links:
                    st.links.append(link)
                return {"versionIndex": 0, "artifactMembership": MembershipT(s, art)}

            def f_useArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                run = st.run(
                    input.get("entityName"), input.get("projectName"), input.get("runName")
                )
                if input.get("runName") not in art["used_by"]:
                    art["used_by"].append(input.get("runName"))
                if run is not None and st.art_name(art) not in run["used_artifacts"]:
                    run["used_artifacts"].append(st.art_name(art))
                return {"artifact": ArtifactT(s, art)}

            def f_updateArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                if input.get("metadata") is not None:
                    art["metadata"] = jloads(input["metadata"])
                if input.get("description") is not None:
                    art["description"] = input["description"]
                return {"artifact": ArtifactT(s, art)}

            def f_addAliases(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                st._alias(art, [a["alias"] for a in input.get("aliases") or []])
                return {"success": True}

            def f_deleteAliases(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                for a in input.get("aliases") or []:
                    if a["alias"] in art["aliases"]:
                        art["aliases"].remove(a["alias"])
                return {"success": True}

            def f_deleteArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                art["state"] = "DELETED"
                return {"artifact": ArtifactT(s, art)}

            def f_createCustomChart(self, input=None, **_):
                chart = {
                    "id": f"{input['entity']}/{input['name']}",
                    **input,
                    "spec": jloads(input.get("spec")),
                }
                st.charts[chart["id"]] = chart
                return T("CreateCustomChartPayload", chart=T("CustomChart", id=chart["id"]))

            # saved workspaces and reports
            def f_upsertView(self, input=None, **_):
                view = st.views.get(input.get("id") or "") or next(
                    (
                        v
                        for v in st.views.values()
                        if (v["project"], v["name"])
                        == (input.get("projectName"), input.get("name"))
                    ),
                    None,
                )
                inserted = view is None
                if view is None:
                    # a view belongs to a project, which may have no runs yet
                    st.project(input.get("entityName"), input.get("projectName"), create=True)
                    vid = gid("View", next(st.seq))
                    view = {
                        "gid": vid,
                        "entity": input.get("entityName") or st.entity,
                        "project": input.get("projectName"),
                        "name": input.get("name"),
                        "type": input.get("type"),
                        "display_name": None,
                        "spec": None,
                        "saves": 0,
                    }
                    st.views[vid] = view
                view["saves"] += 1
                if input.get("displayName") is not None:
                    view["display_name"] = input["displayName"]
                if input.get("spec") is not None:
                    view["spec"] = jloads(input["spec"])
                return {"view": ViewT(s, view), "inserted": inserted}

            def f_deleteView(self, input=None, **_):
                st.views.pop(input.get("id"), None)
                return {"success": True, "pendingRequest": None}

            # sweeps
            def f_upsertSweep(self, input=None, **_):
                return {"sweep": SweepT(s, st.upsert_sweep(input)), "configValidationWarnings": []}

            def f_createAgent(self, input=None, **_):
                if input.get("sweep") not in st.sweeps:
                    raise GraphQLError(f"sweep {input.get('sweep')} not found")
                name = rid()
                st.agents[name] = {
                    "gid": name,
                    "name": name,
                    "sweep": input["sweep"],
                    "host": input.get("host"),
                    "heartbeats": 0,
                    "issued": [],
                }
                return {"agent": {"id": name, "name": name}}

            def f_agentHeartbeat(self, input=None, **_):
                cmds = st.heartbeat(input.get("id"), jloads(input.get("runState")) or {})
                return {"agent": {"id": input.get("id")}, "commands": json.dumps(cmds)}

        return Mutation()
