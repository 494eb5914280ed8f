// ComfyUI lists the workflows of a pack as its disk does. These come from the first to try on, as in docs/nodes.md.

import { api } from "../../scripts/api.js";

const ORDER = [
  "shapes",
  "motion",
  "shapes_lora_per_expert",
  "wan21_released_bundle",
  "hunyuanvideo_released_bundle",
  "wan21_speed_lora",
  "wan22_high_low_pair",
  "baked_experts_guider",
  "wan21_t2v_dual_expert",
  "wan21_i2v_dual_expert",
  "hunyuanvideo_dual_expert",
  "cogvideox_dual_expert",
  "expert_as_ordinary_lora",
];

const pack = decodeURIComponent(new URL(".", import.meta.url).pathname.split("/").at(-2));
const place = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
const listed = api.getWorkflowTemplates?.bind(api); // not in every page that may come

if (listed) {
  api.getWorkflowTemplates = async () => {
    const templates = await listed();
    templates?.[pack]?.sort?.((one, other) => place(one) - place(other));
    return templates;
  };
}
