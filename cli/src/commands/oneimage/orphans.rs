//! `oneimage orphans`: images that nothing speaks of any more.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::objects::{IMAGE, TEMPLATE};
use crate::states;
use crate::terminal;
use crate::wire::Client;
use crate::xml::Element;

/// Prints the ids of images that no VM uses and no template names, a line each; backups are nobody's orphans. Only what
/// the caller may see is looked at, templates too.
pub fn run(client: &Client) -> Result<()> {
    let images = IMAGE.pool_of_all(client)?;
    let templates = TEMPLATE.pool_of_all(client)?;
    let named = Named::by(&templates);
    let is_orphan = |image: &&Element| !states::is_backup(image) && !is_used(image) && !named.holds(image);
    images.all(IMAGE.member).filter(is_orphan).try_for_each(|image| terminal::put_line(image.text_at("ID")))
}

fn is_used(image: &Element) -> bool {
    image.int_at("RUNNING_VMS").unwrap_or(0) > 0 || !image.ids_at("VMS").is_empty()
}

/// What the disks of templates name: ids, and names with their owner's name or id.
#[derive(Default)]
struct Named {
    ids: BTreeSet<String>,
    names: BTreeSet<(String, String)>,
}

impl Named {
    fn by(templates: &Element) -> Self {
        let mut named = Self::default();
        for template in &templates.children {
            for disk in template.at("TEMPLATE").into_iter().flat_map(|text| text.all("DISK")) {
                let text = |name| disk.text_at(name).to_owned();
                if !text("IMAGE_ID").is_empty() {
                    named.ids.insert(text("IMAGE_ID"));
                    continue;
                }
                // Without an owner the image is that of whoever instantiates: most often of the template's owner.
                let owners = [text("IMAGE_UNAME"), text("IMAGE_UID")];
                let owner = owners.into_iter().find(|owner| !owner.is_empty());
                let owner = owner.unwrap_or_else(|| template.text_at("UNAME").to_owned());
                named.names.insert((owner, text("IMAGE")));
            }
        }
        named
    }

    fn holds(&self, image: &Element) -> bool {
        let name = |owner| (image.text_at(owner).to_owned(), image.text_at("NAME").to_owned());
        self.ids.contains(image.text_at("ID"))
            || ["UNAME", "UID"].into_iter().any(|owner| self.names.contains(&name(owner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_names_an_image_by_id_or_by_owner_and_name() {
        let templates = Element::parse(
            "<P><VMTEMPLATE><UNAME>ann</UNAME><TEMPLATE><DISK><IMAGE_ID>1</IMAGE_ID></DISK><DISK><IMAGE>a</IMAGE></DISK><DISK><IMAGE>b</IMAGE><IMAGE_UID>7</IMAGE_UID></DISK></TEMPLATE></VMTEMPLATE></P>",
        )
        .unwrap();
        let named = Named::by(&templates);
        let holds = |id: i64, uid: i64, owner: &str, name: &str| {
            let text = format!("<IMAGE><ID>{id}</ID><UID>{uid}</UID><UNAME>{owner}</UNAME><NAME>{name}</NAME></IMAGE>");
            named.holds(&Element::parse(&text).unwrap())
        };
        assert!(holds(1, 9, "bob", "x") && holds(2, 9, "ann", "a") && holds(3, 7, "bob", "b"));
        assert!(!holds(2, 9, "bob", "a") && !holds(3, 9, "ann", "b"));
    }
}
